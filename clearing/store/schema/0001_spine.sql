-- The way of a tap, from left to right. Money is bigint fen, instants are timestamptz, business dates are date.
-- What is kept per record leads its key with the card, so that it can be spread by card; everything else is small and local.

-- ── registry ──────────────────────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE issuer (
    code bytea PRIMARY KEY CHECK (length(code) = 4),
    name text NOT NULL,
    own  boolean NOT NULL
);
CREATE TABLE party (
    id   integer PRIMARY KEY CHECK (id BETWEEN 1 AND 65535),
    kind text NOT NULL CHECK (kind IN ('operator', 'bank', 'counter', 'treasury', 'fund')),
    name text NOT NULL
);
CREATE TABLE terminal (
    id       bigint PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
    operator integer NOT NULL REFERENCES party,
    sector   smallint NOT NULL CHECK (sector BETWEEN 1 AND 5),
    class    text NOT NULL,
    epoch    integer NOT NULL CHECK (epoch BETWEEN 1 AND 65535)
);
CREATE TABLE psam (
    number     bytea NOT NULL CHECK (length(number) = 6),
    sector     smallint NOT NULL CHECK (sector BETWEEN 1 AND 5),
    operator   integer NOT NULL REFERENCES party,
    valid_from timestamptz NOT NULL,
    valid_to   timestamptz,
    state      text NOT NULL CHECK (state IN ('active', 'suspended', 'lost')),
    PRIMARY KEY (number, valid_from)
);
CREATE TABLE policy (
    name       text NOT NULL,
    scope      text NOT NULL,
    valid_from date NOT NULL,
    version    integer NOT NULL,
    basis      text NOT NULL,
    value      jsonb NOT NULL,
    PRIMARY KEY (name, scope, valid_from),
    UNIQUE (name, scope, version)
);
CREATE TABLE card (
    card       bytea PRIMARY KEY CHECK (length(card) = 10),
    issuer     bytea NOT NULL REFERENCES issuer,
    profile    text NOT NULL,
    suite      smallint NOT NULL,
    class      smallint NOT NULL,
    generation smallint NOT NULL,
    replaced_at timestamptz
);
CREATE SEQUENCE denylist_version;
CREATE TABLE denylist (
    card         bytea NOT NULL,
    version      bigint NOT NULL,
    reason       text NOT NULL,
    reported_at  timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (card, version)
);
CREATE TABLE declared_total (
    operator integer NOT NULL REFERENCES party,
    sector   smallint NOT NULL,
    date     date NOT NULL,
    count    bigint NOT NULL,
    fen      bigint NOT NULL,
    PRIMARY KEY (operator, sector, date)
);
-- One row: the date that late records post to. Intake reads it FOR SHARE, the closer moves it FOR UPDATE.
CREATE TABLE open_day (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    date date NOT NULL
);

-- ── desk ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE load_order (
    load_id       text PRIMARY KEY,
    card          bytea NOT NULL,
    purse         smallint NOT NULL,
    generation    smallint NOT NULL,
    counter       integer NOT NULL,
    amount_fen    bigint NOT NULL CHECK (amount_fen > 0),
    channel       text NOT NULL,
    terminal      bigint NOT NULL,
    reserved_at   timestamptz NOT NULL,
    authorised_at timestamptz,
    state         text NOT NULL CHECK (state IN ('reserved', 'authorised', 'confirmed', 'committed', 'reversed')),
    settled_on    date
);
CREATE INDEX ON load_order (card, purse, counter);
CREATE TABLE act (
    act_id           bytea PRIMARY KEY CHECK (length(act_id) = 8),
    challenge        bytea NOT NULL CHECK (length(challenge) = 8),
    card             bytea NOT NULL,
    sector           smallint NOT NULL,
    amount_fen       bigint NOT NULL,
    transaction_type smallint NOT NULL,
    split            jsonb NOT NULL,
    terminal         bigint NOT NULL,
    terminal_number  bytea NOT NULL,
    date             bytea NOT NULL,
    time             bytea NOT NULL,
    digest           bytea NOT NULL,
    opened_at        timestamptz NOT NULL,
    used_at          timestamptz
);
CREATE TABLE replacement (
    old      bytea PRIMARY KEY,
    new      bytea NOT NULL UNIQUE,
    load_fen bigint NOT NULL,
    made_at  timestamptz NOT NULL,
    load_id  text REFERENCES load_order
);

-- ── intake ────────────────────────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE batch (
    batch_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    terminal    bigint NOT NULL,
    n           bigint NOT NULL,
    epoch       integer NOT NULL,
    first_seq   bigint NOT NULL,
    last_seq    bigint NOT NULL,
    count       integer NOT NULL,
    digest      bytea NOT NULL,
    media       text NOT NULL,
    body        bytea NOT NULL,
    answer      jsonb NOT NULL,
    received_at timestamptz NOT NULL,
    UNIQUE (terminal, n)
);
CREATE TABLE batch_conflict (
    terminal    bigint NOT NULL,
    n           bigint NOT NULL,
    digest      bytea NOT NULL,
    body        bytea NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (terminal, n, digest)
);
CREATE TABLE security_event (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    kind     text NOT NULL,
    terminal bigint,
    detail   text NOT NULL,
    body     bytea
);
CREATE TABLE terminal_range (
    terminal bigint NOT NULL,
    epoch    integer NOT NULL,
    seen     int8multirange NOT NULL,
    PRIMARY KEY (terminal, epoch)
);
-- Bad proofs per terminal and day of receipt, for the oracle limit (rule 8).
CREATE TABLE terminal_day (
    terminal bigint NOT NULL,
    day      date NOT NULL,
    records  bigint NOT NULL,
    bad      bigint NOT NULL,
    PRIMARY KEY (terminal, day)
);

-- A proven record, unique for ever by the only identity that is made of authenticated bytes (rule 3). Never updated.
CREATE TABLE fact (
    card                 bytea NOT NULL,
    proof_key            bytea NOT NULL,
    kind                 smallint NOT NULL,
    purse                smallint NOT NULL,
    generation           smallint NOT NULL,
    counter              integer NOT NULL,
    amount_fen           bigint NOT NULL,
    terminal_number      bytea NOT NULL,
    terminal_transaction bigint NOT NULL,
    instant              timestamptz NOT NULL,
    origin_date          date NOT NULL,
    post_date            date NOT NULL,
    sector               smallint NOT NULL,
    operator             integer NOT NULL,
    terminal             bigint NOT NULL,
    epoch                integer NOT NULL,
    sequence             bigint NOT NULL,
    sealed               boolean NOT NULL,
    state                text NOT NULL CHECK (state IN ('accepted', 'suspended')),
    code                 text NOT NULL,
    batch_id             bigint NOT NULL,
    received_at          timestamptz NOT NULL,
    record               bytea NOT NULL CHECK (length(record) = 128),
    PRIMARY KEY (card, proof_key)
);
CREATE INDEX ON fact (card, purse, generation, counter);
CREATE INDEX ON fact (post_date);
CREATE INDEX ON fact (batch_id);
-- What happened to a proven record after its birth: disputed (a fork), adopted (a sealed copy lent its claims), source (import).
CREATE TABLE record_event (
    card      bytea NOT NULL,
    proof_key bytea NOT NULL,
    kind      text NOT NULL CHECK (kind IN ('disputed', 'adopted')),
    on_date   date NOT NULL,
    record    bytea,
    PRIMARY KEY (card, proof_key, kind)
);
-- A record without a proof of ours: quarantined, conflict, memo, pending_issuer. Same bytes, same exhibit.
CREATE TABLE exhibit (
    card        bytea NOT NULL,
    digest      bytea NOT NULL,
    state       text NOT NULL CHECK (state IN ('quarantined', 'conflict', 'memo', 'pending_issuer')),
    code        text NOT NULL,
    proof_key   bytea,
    kind        smallint NOT NULL,
    purse       smallint NOT NULL,
    generation  smallint NOT NULL,
    counter     integer NOT NULL,
    amount_fen  bigint NOT NULL,
    instant     timestamptz,
    origin_date date,
    post_date   date NOT NULL,
    sector      smallint,
    operator    integer,
    terminal    bigint NOT NULL,
    epoch       integer NOT NULL,
    sequence    bigint NOT NULL,
    sealed      boolean NOT NULL,
    batch_id    bigint NOT NULL,
    received_at timestamptz NOT NULL,
    taken_up_at timestamptz,
    record      bytea NOT NULL CHECK (length(record) = 128),
    PRIMARY KEY (card, digest)
);
CREATE INDEX ON exhibit (state, code);

-- ── ledger ────────────────────────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE settlement_class (class text PRIMARY KEY);
INSERT INTO settlement_class VALUES
    ('stored value'), ('insurance fund'), ('personal medical account'), ('treasury subsidy'), ('bank cash');
-- Which class a rule may move in which ledger; a flow that is not here cannot be inserted (rule 11).
CREATE TABLE flow (
    rule   text NOT NULL,
    ledger text NOT NULL,
    class  text NOT NULL REFERENCES settlement_class,
    PRIMARY KEY (rule, ledger, class)
);
INSERT INTO flow VALUES
    ('debit', 'purse', 'stored value'), ('debit', 'transit', 'stored value'), ('debit', 'smallpay', 'stored value'),
    ('debit', 'utility', 'stored value'),
    ('load', 'purse', 'stored value'), ('load', 'purse', 'bank cash'),
    ('act', 'social', 'insurance fund'), ('act', 'social', 'personal medical account'),
    ('act', 'medical', 'insurance fund'), ('act', 'medical', 'personal medical account'),
    ('subsidy', 'transit', 'treasury subsidy'),
    ('fork', 'purse', 'stored value'), ('fork', 'transit', 'stored value'), ('fork', 'smallpay', 'stored value'),
    ('fork', 'utility', 'stored value'),
    ('gap', 'purse', 'stored value'),
    ('fee', 'transit', 'stored value'), ('fee', 'smallpay', 'stored value'), ('fee', 'utility', 'stored value'),
    ('import', 'transit', 'stored value');
CREATE TABLE account (
    ledger  text NOT NULL,
    account text NOT NULL,
    class   text NOT NULL REFERENCES settlement_class,
    PRIMARY KEY (ledger, account),
    UNIQUE (ledger, account, class)
);
CREATE TABLE journal (
    journal_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cause      text NOT NULL CHECK (cause IN ('batch', 'close', 'import', 'retake')),
    reference  text NOT NULL,
    posted_at  timestamptz NOT NULL
);
CREATE INDEX ON journal (cause, reference);
-- amount_fen > 0 is a debit, < 0 a credit. `version` is of the rule's policy; merkle_root is over the sorted proof keys
-- (exhibit digests for pending ones) of the `count` records behind it; a posting without records has none.
CREATE TABLE posting (
    posting_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    journal_id    bigint NOT NULL REFERENCES journal,
    ledger        text NOT NULL,
    account       text NOT NULL,
    class         text NOT NULL,
    rule          text NOT NULL,
    version       integer NOT NULL,
    business_date date NOT NULL,
    origin_date   date NOT NULL,
    count         integer NOT NULL,
    amount_fen    bigint NOT NULL CHECK (amount_fen <> 0),
    merkle_root   bytea,
    FOREIGN KEY (ledger, account, class) REFERENCES account (ledger, account, class),
    FOREIGN KEY (rule, ledger, class) REFERENCES flow (rule, ledger, class)
);
CREATE INDEX ON posting (business_date, ledger, account);
CREATE INDEX ON posting (journal_id);

CREATE FUNCTION posting_sums_to_zero() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM fresh GROUP BY journal_id, ledger HAVING sum(amount_fen) <> 0) THEN
        RAISE EXCEPTION 'a journal does not sum to zero in every ledger' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER posting_sums_to_zero AFTER INSERT ON posting
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION posting_sums_to_zero();

CREATE FUNCTION history_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is history: a correction is a new row', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON posting FOR EACH STATEMENT EXECUTE FUNCTION history_stands();
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON journal FOR EACH STATEMENT EXECUTE FUNCTION history_stands();
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON batch FOR EACH STATEMENT EXECUTE FUNCTION history_stands();

-- Posting deltas folded by the closer; one row per account and closed date.
CREATE TABLE balance (
    ledger      text NOT NULL,
    account     text NOT NULL,
    date        date NOT NULL,
    debit_fen   bigint NOT NULL,
    credit_fen  bigint NOT NULL,
    closing_fen bigint NOT NULL,
    PRIMARY KEY (ledger, account, date),
    FOREIGN KEY (ledger, account) REFERENCES account
);

-- ── close, settlement, reconcile ──────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE closing (
    date             date PRIMARY KEY,
    closed_at        timestamptz NOT NULL,
    books_digest     text NOT NULL,
    substance_digest text NOT NULL
);
-- What the closes have posted per subject so far, so that a close posts the difference: subsidies, forks, gaps, loads.
CREATE TABLE carried (
    rule        text NOT NULL,
    subject     text NOT NULL,
    ledger      text NOT NULL,
    account     text NOT NULL,
    origin_date date NOT NULL,
    version     integer NOT NULL,
    amount_fen  bigint NOT NULL,
    PRIMARY KEY (rule, subject, ledger, account, origin_date, version)
);
CREATE TABLE net_position (
    date    date NOT NULL REFERENCES closing,
    class   text NOT NULL REFERENCES settlement_class,
    party   text NOT NULL,
    net_fen bigint NOT NULL,
    PRIMARY KEY (date, class, party)
);
CREATE TABLE case_file (
    kind       text NOT NULL,
    subject    text NOT NULL,
    amount_fen bigint NOT NULL,
    opened     date NOT NULL,
    resolved   date,
    resolution text,
    owner      text NOT NULL,
    detail     jsonb NOT NULL,
    PRIMARY KEY (kind, subject)
);

-- ── import of sources without cryptograms ─────────────────────────────────────────────────────────────────────────────
CREATE TABLE import_file (
    digest      bytea PRIMARY KEY,
    scheme      text NOT NULL,
    name        text NOT NULL,
    lines       bigint NOT NULL,
    imported_at timestamptz NOT NULL
);
CREATE TABLE import_row (
    card          bytea NOT NULL,
    row_key       bytea NOT NULL,
    scheme        text NOT NULL,
    state         text NOT NULL CHECK (state IN ('accepted', 'quarantined')),
    code          text NOT NULL,
    operator      integer,
    ride          boolean NOT NULL,
    full_fare_fen bigint,
    charged_fen   bigint,
    instant       timestamptz,
    close_date    date,
    row           text NOT NULL,
    PRIMARY KEY (card, row_key)
);
