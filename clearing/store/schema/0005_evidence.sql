-- The raw balance that a load found is what its MAC1 proves: a close places the load by it. Older orders did not keep it.
ALTER TABLE load_order ADD COLUMN raw_fen bigint;

-- The class of a card counts from the instant at which the registry took it; a ride keeps the class of its time.
CREATE TABLE card_class (
    card  bytea NOT NULL REFERENCES card,
    since timestamptz NOT NULL,
    class smallint NOT NULL,
    PRIMARY KEY (card, since)
);
INSERT INTO card_class (card, since, class) SELECT card, '-infinity', class FROM card;

-- What a replaced card held by the books, purse by purse, when it was replaced (rule 18).
CREATE TABLE replacement_value (
    old       bytea NOT NULL REFERENCES replacement,
    purse     smallint NOT NULL,
    value_fen bigint NOT NULL CHECK (value_fen > 0),
    PRIMARY KEY (old, purse)
);
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON replacement_value FOR EACH STATEMENT EXECUTE FUNCTION history_stands();
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON card_class FOR EACH STATEMENT EXECUTE FUNCTION history_stands();
INSERT INTO flow VALUES ('replace', 'purse', 'stored value');

-- A closed date never changes (rule 13): nothing is posted into one, whoever asks.
CREATE FUNCTION closed_dates_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM fresh f JOIN closing c ON c.date = f.business_date) THEN
        RAISE EXCEPTION 'a posting names a closed business date' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER closed_dates_stand AFTER INSERT ON posting
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION closed_dates_stand();
