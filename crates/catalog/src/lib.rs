//! What one server knows of its machines: SQLite, one file a table.
