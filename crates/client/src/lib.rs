//! HTTP client of the v1 face.
