-- name: add_users
-- Thousands of accounts at once, each with a key: one by one they would take longer than the drill.
with added as (
    insert into accounts (canonical_id, name, display_name, email, is_admin)
    select given.name, given.name, given.name, '', true
    from unnest($1::text[]) as given (name)
    returning account_id, name
)
insert into access_keys (access_key, account_id, secret_key)
select given.access_key, added.account_id, given.secret_key
from unnest($1::text[], $2::text[], $3::text[]) as given (name, access_key, secret_key)
join added on added.name = given.name;
