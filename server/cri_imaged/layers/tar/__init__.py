"""Reading archives: headers, fields, entries, paths."""
