"""Flows in a SQL database, whichever: `SQLStore`, which is given a dialect and a connection.

The rooms of it, from the bottom up:

* `queries.sql` and `migrations/`: the statements, by their names; `statements` words them in a
  dialect;
* `rows`: a flow as a row, and how the row is authenticated; `events`: an event as a row;
* `operations`: which statements an operation runs, and in which order: generators, without I/O;
* `schema` and `keys`: the same for a store that is opened;
* `remembered`: the flows that this process drives;
* `store`: the operations, performed by a connection.
"""

from deviceflow.stores.sql.store import Resealed, Snapshot, SQLStore

__all__ = ["Resealed", "SQLStore", "Snapshot"]
