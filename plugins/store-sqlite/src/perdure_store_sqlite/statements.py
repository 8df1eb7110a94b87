"""The SQL of the ledger. A test asks SQLite for the plan of each: none may look through all runs."""

from __future__ import annotations

from typing import Final

from perdure_store_sqlite import rows

# ruff: noqa: S608 - all of it is made of our own constants

_ROW: Final = f"({', '.join('?' * 14)})"
APPEND: Final = f"INSERT INTO journal (run, seq, {rows.ENTRY_COLUMNS}, sum) VALUES {_ROW}"
APPENDS: Final = tuple((count, APPEND + f", {_ROW}" * (count - 1)) for count in (64, 8, 1))
"""How to write so many rows at once. For each statement the interpreter's lock is given up and awaited again, which
with a busy event loop costs more than the row."""

INSERT_RUN: Final = (
    f"INSERT INTO runs ({rows.START_COLUMNS}, sum, updated, wake_at, delayed, epoch, held, begun)"
    f" VALUES ({', '.join('?' * 23)}) ON CONFLICT DO NOTHING"
)
INSERT_DELIVERY: Final = (
    f"INSERT INTO inbox (run, {rows.DELIVERY_COLUMNS}, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)

# Of a session, a turn may run when it has begun, or when none before it is unfinished (but for those not yet due) and
# none after it has begun, while it was not due itself.
_FIRST: Final = (
    "(session IS NULL OR begun = 1 OR (NOT EXISTS"
    " (SELECT 1 FROM runs AS o INDEXED BY runs_queue WHERE o.target = runs.target"
    " AND o.session = runs.session AND o.live = 1 AND o.delayed = 0 AND o.id < runs.id)"
    " AND NOT EXISTS (SELECT 1 FROM runs AS o INDEXED BY runs_begun WHERE o.target = runs.target"
    " AND o.session = runs.session AND o.live = 1 AND o.begun = 1 AND o.id > runs.id)))"
)
_WORK: Final = (
    "delayed = 0 AND status NOT IN ('parked', 'suspended') AND (status = 'pending' OR active OR wake_at <= ?"
    " OR EXISTS (SELECT 1 FROM inbox WHERE inbox.run = runs.id AND consumed = 0))"
)
CLAIMABLE: Final = f"SELECT target FROM runs WHERE id = ? AND live = 1 AND held IS NULL AND {_FIRST} AND {_WORK}"
NEWS: Final = "SELECT id, run FROM runs INDEXED BY runs_held WHERE held = ? AND ready = 1 AND live = 1 ORDER BY id"
UNTOLD: Final = f"SELECT id, run FROM runs INDEXED BY runs_ready WHERE ready = 1 AND live = 1 AND {_FIRST} ORDER BY id"
UNTOLD_OF: Final = (
    "SELECT id, run FROM runs INDEXED BY runs_asked WHERE target = ? AND ready = 1 AND live = 1"
    f" AND {_FIRST} ORDER BY id"
)
NEXT_TURN: Final = (
    "SELECT run, id FROM runs INDEXED BY runs_queue WHERE target = ? AND session = ? AND live = 1 AND delayed = 0"
    " ORDER BY id LIMIT 1"
)
DUE: Final = "SELECT id, run, target FROM runs WHERE wake_at <= ? AND ready = 0 AND delayed = 0 ORDER BY wake_at"
RING: Final = "UPDATE runs SET ready = 1 WHERE id = ?"
LATER: Final = "SELECT min(wake_at) FROM runs WHERE wake_at > ? AND ready = 0"
NEXT: Final = "SELECT wake_at, target FROM runs WHERE wake_at > ? AND ready = 0 ORDER BY wake_at LIMIT ?"
LATE: Final = "SELECT 1 FROM runs WHERE delayed = 1 AND wake_at <= ? LIMIT 1"
BECOME_DUE: Final = (
    "UPDATE runs SET delayed = 0, wake_at = NULL, ready = 1 WHERE id IN"
    " (SELECT id FROM runs WHERE delayed = 1 AND wake_at <= ? ORDER BY wake_at LIMIT ?)"
)
TURN_BECOMES_DUE: Final = (
    "UPDATE runs INDEXED BY runs_delayed SET delayed = 0, wake_at = NULL, ready = 1"
    " WHERE delayed = 1 AND wake_at <= ? AND target = ? AND session = ?"
)
HEARD: Final = "UPDATE runs SET updated = max(updated, ?) WHERE id = ?"
HURRY: Final = "UPDATE runs SET delayed = 0, wake_at = NULL WHERE id = ? AND delayed = 1"

HOLD: Final = "UPDATE runs SET held = ?, epoch = epoch + 1, ready = 0, begun = 1 WHERE id = ?"
HELD: Final = (
    f"SELECT {rows.START_COLUMNS}, sum, status, active, wake_at, epoch, takeovers,"
    " (SELECT coalesce(max(seq) + 1, 0) FROM journal WHERE journal.run = runs.id), rewound FROM runs WHERE id = ?"
)
STANDS: Final = (
    "SELECT status, active, wake_at, epoch, takeovers,"
    " (SELECT coalesce(max(seq) + 1, 0) FROM journal WHERE journal.run = runs.id) FROM runs"
    " WHERE id = ? AND run = ? AND held = ?"
)
LET_GO: Final = "UPDATE runs SET held = NULL, ready = 1, takeovers = takeovers + ? WHERE id = ?"
INBOX: Final = f"SELECT {rows.DELIVERY_COLUMNS}, sum FROM inbox WHERE run = ? AND consumed = 0 ORDER BY id"
WAKE_HALTED: Final = (
    "UPDATE runs SET status = 'pending', error = NULL, takeovers = 0, delayed = coalesce(due > :now, 0),"
    " wake_at = CASE WHEN due > :now THEN due END WHERE id = :id"
)
LET_STRAY: Final = "UPDATE runs SET held = NULL, ready = 1 WHERE run = ? AND held = ?"
IS_ENDED: Final = "SELECT 1 FROM inbox WHERE run = ? AND consumed = 0 AND kind IN ('cancel', 'terminate')"
SET_ASIDE: Final = (
    "UPDATE runs SET status = ?, error = ?, live = ?, active = 0, wake_at = NULL, delayed = 0, held = NULL, ready = 0"
    " WHERE id = ?"
)
UPDATE: Final = (
    "UPDATE runs SET status = ?, active = ?, wake_at = ?, updated = max(at, ?), value = ?, error = ?, unreported = ?,"
    " progress = coalesce(?, progress), held = ?, live = ?, takeovers = ?, ready = CASE WHEN ? THEN ready ELSE 0 END,"
    " rewound = 0 WHERE id = ?"
)
BEGIN_ANEW: Final = "UPDATE runs SET input = ?, version = ?, generation = ?, sum = ? WHERE id = ?"
SESSION: Final = (
    "SELECT id, turn, CASE WHEN typeof(state) = 'text' THEN state END,"
    " CASE WHEN typeof(earlier) = 'text' THEN earlier END FROM sessions WHERE target = ? AND session = ?"
)
# Of a turn that is rewound the state before it is wanted back.
NEXT_STATE: Final = "UPDATE sessions SET earlier = state, earlier_sum = sum, state = ?, sum = ?, turn = ? WHERE id = ?"
# Asked again, it is handed on to somebody else; or opened again, by a run that was rewound.
ASK: Final = (
    "INSERT INTO requests (request, run, path, prompt, schema, at, deadline, asked) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (request) DO UPDATE SET asked = excluded.asked, status = 'open' WHERE status <> 'answered'"
)
CLOSE_REQUESTS: Final = "UPDATE requests SET status = 'closed' WHERE run = ? AND status = 'open'"
CHILDREN: Final = (
    "SELECT id, run, on_close FROM runs INDEXED BY runs_children"
    " WHERE parent = ? AND live = 1 AND on_close <> 'abandon'"
)

FIRST_ENTRIES: Final = f"SELECT seq, {rows.ENTRY_COLUMNS}, sum FROM journal WHERE run = ? AND seq < ? ORDER BY seq"
GIVE_BACK: Final = "UPDATE inbox SET consumed = 0, place = NULL WHERE run = ? AND place >= ?"
OUTCOME: Final = (
    "SELECT CASE WHEN typeof(value) = 'text' THEN value END, CASE WHEN typeof(error) = 'text' THEN error END"
    " FROM runs WHERE id = ?"
)
REWIND: Final = (
    "UPDATE runs SET status = 'pending', live = 1, ready = 1, value = NULL, error = NULL, unreported = 0,"
    " takeovers = 0, updated = max(at, ?), epoch = epoch + 1, rewound = 1 WHERE id = ?"
)
_SESSION: Final = "target = :target AND session = :session"
LATER_TURNS: Final = (
    f"SELECT 1 FROM runs INDEXED BY runs_begun WHERE {_SESSION} AND live = 1 AND begun = 1 LIMIT 1",
    f"SELECT 1 FROM runs INDEXED BY runs_session WHERE {_SESSION} AND live = 0 AND id > :id LIMIT 1",
    f"""SELECT 1 FROM log WHERE session = (SELECT id FROM sessions WHERE {_SESSION}) AND run <> :id
    AND id > (SELECT min(mine.id) FROM log AS mine WHERE mine.session = log.session AND mine.run = :id) LIMIT 1""",
)
"""That another turn goes on, that a later one has finished, that one came after it whatever their order."""
STATE_BEFORE: Final = (
    "UPDATE sessions SET state = earlier, sum = earlier_sum, earlier = NULL, earlier_sum = NULL, turn = NULL"
    " WHERE id = ?"
)
