-- What changed in the registry since a snapshot was taken: a service compares four numbers in each transaction and reloads
-- only the part that moved.
CREATE TABLE registry_change (
    part    text PRIMARY KEY,
    version bigint NOT NULL
);
INSERT INTO registry_change VALUES ('parties', 0), ('cards', 0), ('denylist', 0), ('replacements', 0);

CREATE FUNCTION registry_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry_change SET version = version + 1 WHERE part = TG_ARGV[0];
    RETURN NULL;
END $$;
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON issuer FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('parties');
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON party FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('parties');
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON terminal FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('parties');
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON psam FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('parties');
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON policy FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('parties');
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE ON card FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('cards');
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON denylist FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('denylist');
CREATE TRIGGER registry_changed AFTER INSERT OR DELETE ON replacement FOR EACH STATEMENT EXECUTE FUNCTION registry_changed('replacements');

-- Same bytes, same terminal, epoch and sequence: how intake finds out that a record lies among the exhibits already.
CREATE INDEX ON exhibit (terminal, epoch, sequence);

-- Bodies are kept as they came: most are random bytes (cryptograms), and trying to compress them costs more than it saves.
ALTER TABLE batch ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE batch_conflict ALTER COLUMN body SET STORAGE EXTERNAL;

-- Facts arrive in the order of batches and nearly in that of post dates: block ranges find them as well as a tree does, and cost
-- next to nothing while records stream in.
DROP INDEX fact_post_date_idx, fact_batch_id_idx;
CREATE INDEX ON fact USING brin (post_date) WITH (autosummarize = on);
CREATE INDEX ON fact USING brin (batch_id) WITH (autosummarize = on);
