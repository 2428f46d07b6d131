"""The triggers that guard history: those that the migrations make, and whether the database still has them."""

import json
import re

from clearing.store.migrate import migrations

_FUNCTION = re.compile(r"CREATE FUNCTION (\w+)\(\) RETURNS trigger LANGUAGE plpgsql AS \$\$(.*?)\$\$;", re.DOTALL)
_TRIGGER = re.compile(
    r"CREATE TRIGGER (\w+) (BEFORE|AFTER) ([A-Z ]+?) ON (\w+)\s+(?:REFERENCING NEW TABLE AS \w+ )?"
    r"FOR EACH (ROW|STATEMENT) EXECUTE FUNCTION (\w+)\("
)
# Bits of pg_trigger.tgtype.
_BITS = {"ROW": 1, "BEFORE": 2, "INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}
# As made by the migrations, enabled, and running the text that they gave; nor is a foreign key's own trigger off.
GUARDED = """
    SELECT t.oid IS NULL OR t.tgenabled <> 'O' OR t.tgtype <> g.type OR t.tgqual IS NOT NULL OR p.proname <> g.runs
           OR p.prosrc <> g.source AS bad, g.guard || ' of ' || g.guarded AS label
    FROM jsonb_to_recordset($1::jsonb) AS g (guard text, guarded text, type integer, runs text, source text)
    LEFT JOIN pg_trigger t ON t.tgname = g.guard AND t.tgrelid = to_regclass(g.guarded)
    LEFT JOIN pg_proc p ON p.oid = t.tgfoid
    UNION ALL
    SELECT t.tgenabled <> 'O', t.tgname || ' of ' || c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"""


def guards() -> str:
    """JSON text of the triggers that the migrations make: guard, guarded, type, runs, source."""
    sql = "\n".join(migration.sql for migration in migrations())
    sources = dict(_FUNCTION.findall(sql))
    return json.dumps(
        [
            {
                "guard": name,
                "guarded": table,
                "type": sum(_BITS.get(word, 0) for word in (when, level, *events.split(" OR "))),
                "runs": function,
                "source": sources[function],
            }
            for name, when, events, table, level, function in _TRIGGER.findall(sql)
        ]
    )
