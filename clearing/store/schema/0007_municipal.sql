-- A company of an imported source is numbered by its name, beyond the two bytes that a record has for an operator.
ALTER TABLE party
    ALTER id TYPE bigint,
    DROP CONSTRAINT party_id_check,
    ADD CONSTRAINT party_number CHECK (id BETWEEN 1 AND 65535 OR id BETWEEN 1099511627776 AND 2199023255551);
ALTER TABLE import_row ALTER operator TYPE bigint;
ALTER TABLE declared_total ALTER operator TYPE bigint;

-- Rows of files from before are known by a key over the spelling of their cells; no later file can be held against it.
ALTER TABLE import_file ADD COLUMN key_version smallint NOT NULL DEFAULT 1;
ALTER TABLE import_file ALTER key_version SET DEFAULT 2;
