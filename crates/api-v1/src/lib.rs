//! The native face, /v1.
