"""A ledger in the browser: Datasette, read-only, with links, questions and reports. It needs the extra `web`."""
