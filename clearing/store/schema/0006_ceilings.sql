-- How often a PSAM was let on, and what its terminal had said by then. `batch_id` is the newest batch at that moment:
-- what the PSAM numbers from then on lies in later ones.
CREATE TABLE psam_arming (
    arming_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    psam           bytea NOT NULL CHECK (length(psam) = 6),
    terminal       bigint NOT NULL,
    epoch          integer NOT NULL,
    sequence       bigint NOT NULL,
    transaction    bigint NOT NULL,
    count          bigint NOT NULL CHECK (count > 0),
    amount_fen     bigint NOT NULL CHECK (amount_fen > 0),
    policy_version integer NOT NULL,
    batch_id       bigint NOT NULL,
    date           date NOT NULL,
    armed_at       timestamptz NOT NULL
);
CREATE INDEX ON psam_arming (psam, arming_id);
CREATE TRIGGER history_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON psam_arming FOR EACH STATEMENT EXECUTE FUNCTION history_stands();
