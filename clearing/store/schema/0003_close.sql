-- What a close carries is kept per close, so that each of its postings can name the records behind it (rule 21):
-- the sum over all dates is what has been posted per subject. A load that evidence resolved has no record.
ALTER TABLE carried
    DROP CONSTRAINT carried_pkey,
    ADD COLUMN posted_on date NOT NULL,
    ADD COLUMN proof_key bytea,
    ADD PRIMARY KEY (subject, rule, ledger, account, origin_date, version, posted_on);
CREATE INDEX ON carried (posted_on);

-- A row of a source without cryptograms posts like any other: on the later of its declared date and the open date.
ALTER TABLE import_row
    ADD COLUMN file        bytea NOT NULL REFERENCES import_file,
    ADD COLUMN line        bigint NOT NULL,
    ADD COLUMN journal_id  bigint,
    ADD COLUMN origin_date date,
    ADD COLUMN post_date   date;
CREATE INDEX ON import_row (journal_id);

-- What a close knew: batches up to this one. A card with later records is judged by the next close, not by `verify`.
ALTER TABLE closing ADD COLUMN last_batch bigint NOT NULL DEFAULT 0;
