"""Logins and grants in a SQL database, whichever: a store is given a dialect and a connection.

From the bottom up:

* `queries.sql` and `migrations/`: the statements, by their names; `statements` words them in a
  dialect;
* `connection`: transactions, in which statements are run by their names;
* `rows`: a login or a grant as a row, and how the row is authenticated;
* `schema` and `keys`: what a store is opened with;
* `store`: what each method of a store does, for every connection;
* `sync_store`: the same for threads.
"""

from deviceflow.stores.sql.sync_store import Resealed, Snapshot, SQLStore

__all__ = ["Resealed", "SQLStore", "Snapshot"]
