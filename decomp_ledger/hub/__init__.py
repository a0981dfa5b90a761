"""A hub: many ledgers in one database, PostgreSQL or an SQLite file. SQLAlchemy is imported when one is used."""
