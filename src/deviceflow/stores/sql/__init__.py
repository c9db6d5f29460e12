"""Flows in a SQL database, whichever: `SQLStore`, which is given a dialect and a connection.

The rooms of it, from the bottom up:

* `queries.sql` and `migrations/`: the statements, by their names; `statements` words them in a
  dialect;
* `rows`: a flow as a row, and how the row is authenticated; `events`: an event as a row;
* `operations`: which statements an operation runs, and in which order: generators, without I/O;
* `schema` and `keys`: the same for a store that is opened;
* `remembered`: the flows that this process drives;
* `methods`: what a store's methods do around their operations: generators of jobs;
* `store`: the sync face, which performs jobs by a connection;
* `async_store`: the async face; `pending`: jobs that tasks wait for.
"""

from deviceflow.stores.sql.store import Resealed, Snapshot, SQLStore

__all__ = ["Resealed", "SQLStore", "Snapshot"]
