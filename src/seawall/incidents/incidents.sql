-- name: keep
-- A copy of what the keeper's files say of an incident, for the day the keeper's disk is lost.
insert into incidents (id, status, began_at, resolved_at, title, record)
values ($1, $2, to_timestamp($3), to_timestamp($4), $5, $6::jsonb)
on conflict (id) do update set
    status = excluded.status,
    began_at = excluded.began_at,
    resolved_at = excluded.resolved_at,
    title = excluded.title,
    record = excluded.record,
    kept_at = now();

-- name: owners
-- Whose the access keys are for which something failed while nobody could look them up.
select access_key, account_id from access_keys where access_key = any ($1::text[]);
