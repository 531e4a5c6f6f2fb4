//! The application layer: machines and their lifecycle, files, executions.
