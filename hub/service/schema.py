"""The tables, in SQL that SQLite and PostgreSQL both read. A later version adds steps at the end."""

from __future__ import annotations

_FIRST = """
CREATE TABLE counter (one integer PRIMARY KEY CHECK (one = 1), revision bigint NOT NULL, address bigint);
INSERT INTO counter (one, revision) VALUES (1, 0);
CREATE TABLE nodes (
    node text PRIMARY KEY, boot text NOT NULL, seen double precision NOT NULL,
    draining integer NOT NULL, version text NOT NULL
);
CREATE TABLE boots (node text NOT NULL, boot text NOT NULL, PRIMARY KEY (node, boot));
CREATE TABLE sessions (
    id text PRIMARY KEY, person text NOT NULL, node text NOT NULL, boot text NOT NULL,
    client_id bigint NOT NULL, key_id bigint NOT NULL, sequence bigint NOT NULL, certificate text NOT NULL,
    client_address text NOT NULL, client_port integer NOT NULL, claims text NOT NULL, method text NOT NULL,
    state text NOT NULL, asked double precision NOT NULL, groups text NOT NULL, address text,
    since double precision, up double precision, ended double precision, reason text, ended_by text,
    end_asked double precision, end_reason text, end_text text NOT NULL, until double precision,
    received_bytes bigint NOT NULL, sent_bytes bigint NOT NULL, decided integer NOT NULL, revision bigint NOT NULL
);
CREATE UNIQUE INDEX sessions_of_request ON sessions (node, boot, sequence);
CREATE UNIQUE INDEX sessions_by_live_address ON sessions (address) WHERE ended IS NULL AND address IS NOT NULL;
CREATE INDEX sessions_open_on_node ON sessions (node) WHERE ended IS NULL;
CREATE INDEX sessions_of_person ON sessions (person, asked);
CREATE INDEX sessions_by_address ON sessions (address, since);
CREATE INDEX sessions_by_revision ON sessions (revision);
CREATE INDEX sessions_undecided ON sessions (node) WHERE decided = 1;
CREATE INDEX sessions_by_asked ON sessions (asked);
CREATE TABLE addresses (
    address bigint PRIMARY KEY, person text NOT NULL, session text, released double precision NOT NULL
);
CREATE INDEX addresses_of_person ON addresses (person) WHERE session IS NULL;
CREATE INDEX addresses_resting ON addresses (released) WHERE session IS NULL;
CREATE TABLE blocks (person text PRIMARY KEY, at double precision NOT NULL, by text NOT NULL, until double precision);
CREATE TABLE codes (
    person text PRIMARY KEY, last_step bigint NOT NULL, wrong integer NOT NULL, locked_until double precision NOT NULL
);
CREATE TABLE challenges (
    state text PRIMARY KEY, person text NOT NULL, certificate text NOT NULL, expires double precision NOT NULL
);
CREATE TABLE proofs (
    person text NOT NULL, certificate text NOT NULL, method text NOT NULL, at double precision NOT NULL,
    PRIMARY KEY (person, certificate)
);
CREATE TABLE approvals (
    token text PRIMARY KEY, session text NOT NULL, person text NOT NULL, boot text NOT NULL, number text NOT NULL,
    expires double precision NOT NULL
);
CREATE TABLE events (
    revision bigint PRIMARY KEY, at double precision NOT NULL, what text NOT NULL, session text, person text,
    detail text NOT NULL
);
CREATE INDEX events_by_time ON events (at);
CREATE INDEX events_of_person ON events (person, revision);
"""

_IDENTITIES = """
CREATE TABLE attempts (
    state text PRIMARY KEY, browser text NOT NULL, link text NOT NULL, number text NOT NULL,
    expires double precision NOT NULL
);
CREATE INDEX attempts_of_link ON attempts (link);
CREATE TABLE claimed_groups (person text PRIMARY KEY, groups text NOT NULL);
CREATE INDEX sessions_to_end ON sessions (node) WHERE ended IS NULL AND end_asked IS NOT NULL;
"""

STEPS = (_FIRST, _IDENTITIES)
