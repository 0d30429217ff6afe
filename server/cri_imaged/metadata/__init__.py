"""SQLite: schema, migrations, transactions, and the repository of what the node holds."""
