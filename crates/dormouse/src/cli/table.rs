//! Plain tables: columns as wide as their widest cell, two spaces apart.

/// Prints rows under headings to stdout.
#[allow(clippy::print_stdout, reason = "this is the data that was asked for")]
pub(super) fn print(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if at + 1 < cells.len() {
                text.push_str(&" ".repeat(width - cell.chars().count() + 2));
            }
        }
        text
    };
    println!("{}", line(&headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        println!("{}", line(row));
    }
}

/// Prints JSON to stdout.
#[allow(clippy::print_stdout, reason = "this is the data that was asked for")]
pub(super) fn print_json(value: &impl serde::Serialize) {
    // Cannot fail: what is printed came out of JSON.
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}
