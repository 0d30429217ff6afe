"""SQLite: schema, migrations, transactions, and the repository of what the node holds.

Names are rows keyed `(name, runtime handler)` → image; an image row is one manifest for one
handler and links its blobs and topmost snapshot; an image ID groups rows. Garbage is what no
foreign key holds: `metadata/garbage.py: sweep` deletes those rows in one transaction.

Order. A blob is renamed into place and gets its row in the same transaction; deletion commits
durably first, then files are renamed into `trash/` inside a transaction that sees whether the row
came back, then they are removed in the background. So a row always has its file, and a file
without a row is an orphan that the next start removes.

A full disk. `metadata.db-reserve` (4 MiB) is given up for the transactions that make room:
removals, ends of leases. While it is spent, other writes answer RESOURCE_EXHAUSTED.
"""
