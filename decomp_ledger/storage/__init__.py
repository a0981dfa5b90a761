"""The SQLite file: connections, migrations, events and their history, backups. All SQL is here."""
