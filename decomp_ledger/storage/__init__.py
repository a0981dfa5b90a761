"""The SQLite file: connections, migrations, events, their history, backups. All SQL is here."""
