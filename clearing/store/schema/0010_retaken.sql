-- Whether a retake gave an exhibit the verdict that it has, and so posted what it posts: two records of a batch may bear one
-- sequence, so the batch's answer cannot tell which of them it named. Of those that are here it is the best there is.
ALTER TABLE exhibit ADD COLUMN retaken boolean NOT NULL DEFAULT false;
UPDATE exhibit SET retaken = true FROM batch
WHERE exhibit.state = 'pending_issuer' AND batch.batch_id = exhibit.batch_id
    AND batch.answer -> 'quarantined' @> jsonb_build_array(jsonb_build_object('seq', exhibit.sequence));
