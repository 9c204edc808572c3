-- name: credential
-- Whose an access key is; asked once per key and epoch, and for each request with an unknown one.
select
    asked.ordinal,
    access_keys.secret_key,
    accounts.account_id,
    accounts.canonical_id,
    accounts.display_name,
    accounts.is_admin,
    accounts.is_background
from unnest($1::text[]) with ordinality as asked (access_key, ordinal)
join access_keys on access_keys.access_key = asked.access_key
join accounts on accounts.account_id = access_keys.account_id;

-- name: epoch
-- Grows with every change to accounts or access keys; each node asks twice a second.
select epoch from access_epoch;

-- name: add_account
-- No row when the name or the canonical id is taken.
insert into accounts (canonical_id, name, display_name, email, is_admin, is_background)
values ($1, $2, $3, $4, $5, $6)
on conflict do nothing
returning account_id;

-- name: add_access_key
-- No row when the access key is taken.
insert into access_keys (access_key, account_id, secret_key)
values ($1, $2, $3)
on conflict do nothing
returning access_key;

-- name: remove_access_keys
-- Before an account gets a new key in place of the old ones.
delete from access_keys where account_id = $1;

-- name: list_accounts
-- Everything about accounts but their secrets, for operators.
select
    accounts.account_id,
    accounts.canonical_id,
    accounts.name,
    accounts.display_name,
    accounts.email,
    accounts.is_admin,
    accounts.is_background,
    accounts.created_at,
    array(
        select access_keys.access_key from access_keys
        where access_keys.account_id = accounts.account_id order by access_keys.created_at, access_keys.access_key
    ) as access_keys
from accounts
order by accounts.name;

-- name: account_by_name
-- To change or remove an account, or to see whether it is there.
select account_id, canonical_id from accounts where name = $1 for update;

-- name: owns_buckets
-- An account that owns buckets cannot be removed.
select exists (select from buckets where owner_id = $1) as answer;

-- name: remove_account
-- Its access keys go with it.
delete from accounts where account_id = $1;

-- name: service_secret
-- What the nodes share to sign what they hand out; asked once when a node starts.
select secret from service_secret;
