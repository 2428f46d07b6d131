"""The only store of money: PostgreSQL, embedded by default, any server >= 16 by DSN.

`launcher.launch` gives a server of our own under a state directory, `connect.connect_pool` a pool to any server,
`migrate.migrate` and `migrate.check` bring the schema and the code together. What the rows mean
is the other rooms' matter.
"""
