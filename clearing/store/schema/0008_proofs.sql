-- What a close knew of the books, so that its digests can be made again: postings up to this journal, and how many records
-- were in each state. A retake gives records other states without a date, so the states are kept, and not recomputed.
-- Dates that were closed before have neither, and keep the digests that they have.
ALTER TABLE closing
    ADD COLUMN last_journal bigint,
    ADD COLUMN states jsonb;
-- The date that was open when an operator declared a total: a close judges only what it knew.
ALTER TABLE declared_total ADD COLUMN declared_on date;
UPDATE declared_total SET declared_on = (SELECT date FROM open_day);
CREATE FUNCTION declared_when() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.declared_on := (SELECT date FROM open_day);
    RETURN NEW;
END $$;
CREATE TRIGGER declared_when BEFORE INSERT OR UPDATE ON declared_total FOR EACH ROW EXECUTE FUNCTION declared_when();
