-- Accounts, buckets, objects, uploads, and what is to be swept.

create table accounts (
    -- Small and dense on purpose: sets of accounts are kept as bitmaps.
    account_id bigint generated always as identity primary key,
    canonical_id text not null unique,
    name text not null unique,
    display_name text not null,
    email text not null default '',
    is_admin boolean not null default false,
    created_at timestamptz not null default now()
);

create table access_keys (
    access_key text primary key,
    account_id bigint not null references accounts on delete cascade,
    secret_key text not null,
    created_at timestamptz not null default now()
);

create index access_keys_by_account on access_keys (account_id);

-- Nodes poll this number and forget what they cached when it has grown.
create table access_epoch (
    singleton boolean primary key default true check (singleton),
    epoch bigint not null
);

insert into access_epoch (epoch) values (1);

create function access_changed() returns trigger language plpgsql as $$
begin
    update access_epoch set epoch = epoch + 1;
    return null;
end $$;

create trigger accounts_changed after insert or update or delete on accounts
    for each statement execute function access_changed();

create trigger access_keys_changed after insert or update or delete on access_keys
    for each statement execute function access_changed();

create table buckets (
    bucket_id bigint generated always as identity primary key,
    name text collate "C" not null unique,
    owner_id bigint not null references accounts,
    region text not null default '',
    created_at timestamptz not null default now()
);

create index buckets_by_owner on buckets (owner_id, name);

-- The newest version of each key. No foreign key to buckets: each write locks the bucket's row once
-- for its whole batch instead of once a row.
create table current_objects (
    bucket_id bigint not null,
    key text collate "C" not null,
    -- Made by the writer: its idempotency key.
    version_id uuid not null,
    size_bytes bigint not null,
    etag text not null,
    last_modified timestamptz not null default now(),
    content_type text,
    -- Headers to give back, system and user metadata alike, names in lower case.
    headers jsonb,
    -- 'ALGORITHM:base64', with '-N' behind it when composed of N parts.
    checksum text,
    -- Where the bytes are: in this row, in one blob, or in the parts of an upload.
    inline bytea,
    location text collate "C",
    upload_id uuid,
    primary key (bucket_id, key),
    constraint bytes_are_in_one_place check (num_nonnulls(inline, location, upload_id) = 1)
)
-- Small bodies stay in the row: compressing what is mostly compressed costs more than it saves, and
-- a trip to the TOAST table costs a second look-up.
with (toast_tuple_target = 8160);

alter table current_objects alter column inline set storage external;

create index current_objects_by_location on current_objects (location) where location is not null;

create table uploads (
    upload_id uuid primary key,
    bucket_id bigint not null,
    key text collate "C" not null,
    initiator_id bigint not null,
    initiated_at timestamptz not null default now(),
    content_type text,
    headers jsonb,
    checksum_algorithm text,
    -- Whether the object's checksum is that of its bytes, rather than of its parts' checksums.
    full_object boolean not null default false
);

create index uploads_by_key on uploads (bucket_id, key, initiated_at, upload_id);

-- The parts of an upload, and later of the object it became: completing moves nothing.
create table parts (
    upload_id uuid not null,
    part_number integer not null,
    size_bytes bigint not null,
    etag text not null,
    last_modified timestamptz not null default now(),
    checksum text,
    inline bytea,
    location text collate "C",
    -- Where the part starts in the object, once there is one.
    start_byte bigint,
    primary key (upload_id, part_number),
    constraint bytes_are_in_one_place check (num_nonnulls(inline, location) = 1)
)
with (toast_tuple_target = 8160);

alter table parts alter column inline set storage external;

create index parts_by_location on parts (location) where location is not null;

-- Blobs that lost their name. A file's row goes with the file, a segment's rows with the segment.
create table garbage (
    location text collate "C" primary key,
    size_bytes bigint not null,
    since timestamptz not null default now()
);

-- However a row loses its bytes (overwritten, deleted, aborted), they become garbage in the same
-- transaction, so that no statement can forget it.
create function blob_lost_its_name() returns trigger language plpgsql as $$
begin
    insert into garbage (location, size_bytes) values (old.location, old.size_bytes) on conflict do nothing;
    return null;
end $$;

create function parts_lost_their_object() returns trigger language plpgsql as $$
begin
    delete from parts where upload_id = old.upload_id;
    return null;
end $$;

create trigger blob_replaced after update of location on current_objects
    for each row when (old.location is not null and old.location is distinct from new.location)
    execute function blob_lost_its_name();

create trigger blob_deleted after delete on current_objects
    for each row when (old.location is not null)
    execute function blob_lost_its_name();

create trigger parts_replaced after update of upload_id on current_objects
    for each row when (old.upload_id is not null and old.upload_id is distinct from new.upload_id)
    execute function parts_lost_their_object();

create trigger parts_deleted after delete on current_objects
    for each row when (old.upload_id is not null)
    execute function parts_lost_their_object();

create trigger blob_replaced after update of location on parts
    for each row when (old.location is not null and old.location is distinct from new.location)
    execute function blob_lost_its_name();

create trigger blob_deleted after delete on parts
    for each row when (old.location is not null)
    execute function blob_lost_its_name();

-- What the nodes must agree on and nobody else may know: it signs continuation tokens.
create table service_secret (
    singleton boolean primary key default true check (singleton),
    secret bytea not null
);

insert into service_secret (secret)
select decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');
