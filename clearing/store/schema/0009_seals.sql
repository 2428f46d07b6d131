-- What a close saw and no record tells again: that a batch came and when, when a case was opened, what the denylist said. Each
-- close seals the rows that are new since the one before; `last_listed` is the newest version of the denylist that it saw.
-- Dates that were closed before have no seals: the first close from now on seals what they left.
ALTER TABLE closing ADD COLUMN last_listed bigint;
CREATE TABLE seal (
    date   date NOT NULL REFERENCES closing,
    part   text NOT NULL CHECK (part IN ('batches', 'cases', 'closing', 'denylist')),
    digest text NOT NULL,
    PRIMARY KEY (date, part)
);
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON seal FOR EACH STATEMENT EXECUTE FUNCTION history_stands();
-- Found by what is new since the close before, by the close and again by `verify`.
CREATE INDEX ON denylist (version);
CREATE INDEX ON case_file (opened);
