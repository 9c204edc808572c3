-- name: bucket_by_name
-- What a bucket's name stands for; remembered by nodes and asked again when in doubt.
select asked.ordinal, found.bucket_id, found.name, found.owner_id, found.region, found.created_at
from unnest($1::text[]) with ordinality as asked (name, ordinal)
cross join lateral (
    select buckets.bucket_id, buckets.name, buckets.owner_id, buckets.region, buckets.created_at
    from buckets where buckets.name = asked.name offset 0
) as found;

-- name: buckets_of
-- The buckets of one account, a page at a time.
select bucket_id, name, owner_id, region, created_at
from buckets
where owner_id = $1 and name > $2 and ($3 = '' or starts_with(name, $3)) and ($5::text[] is null or region = any ($5))
order by name
limit $4;

-- name: add_bucket
-- No row when the name is taken, or the account was removed meanwhile.
with held as materialized (
    select account_id from accounts where account_id = $2 for key share
)
insert into buckets (name, owner_id, region)
select $1, held.account_id, $3
from held
on conflict do nothing
returning bucket_id, name, owner_id, region, created_at;

-- name: hold_bucket
-- Writers lock the row to share it, so after this nothing is added to the bucket.
select bucket_id from buckets where bucket_id = $1 for update;

-- name: share_bucket
-- As writers do. A transaction that locks an upload too takes this first, in the order in which a bucket
-- and then its uploads are deleted, or the two would wait for each other.
select bucket_id from buckets where bucket_id = $1 for key share;

-- name: bucket_holds_objects
-- A bucket with objects cannot be deleted.
select exists (select from current_objects where bucket_id = $1) as answer;

-- name: remove_uploads_of_bucket
-- Uploads nobody completed go with their bucket. Before their parts: this waits for parts on their way.
delete from uploads where bucket_id = $1 returning upload_id;

-- name: remove_parts_of_uploads
-- A statement of its own, so that it sees what the one before has waited for.
delete from parts where upload_id = any ($1::uuid[]);

-- name: remove_bucket
-- Last, when nothing is in it.
delete from buckets where bucket_id = $1;

-- name: current_version
-- The newest version of a key: what GET and HEAD ask. Replicas may answer it, for it says which transaction made the row.
select
    asked.ordinal,
    found.version_id,
    found.size_bytes,
    found.etag,
    found.last_modified,
    found.content_type,
    found.headers,
    found.checksum,
    found.inline,
    found.location,
    found.upload_id,
    found.xmin
from unnest($1::bigint[], $2::text[]) with ordinality as asked (bucket_id, key, ordinal)
cross join lateral (
    select current_objects.*, current_objects.xmin
    from current_objects
    where current_objects.bucket_id = asked.bucket_id and current_objects.key = asked.key
    offset 0
) as found;

-- name: put_object
-- The new version of a key, whatever was there. A row whose bucket is gone is left out of the answer.
with asked as materialized (
    select *
    from unnest(
        $1::bigint[], $2::text[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::bytea[], $10::text[]
    ) as asked (
        bucket_id, key, version_id, size_bytes, etag, content_type, headers, checksum, inline, location
    )
), held as materialized (
    select bucket_id from buckets where bucket_id = any ($1::bigint[]) order by bucket_id for key share
)
insert into current_objects as present (
    bucket_id, key, version_id, size_bytes, etag, content_type, headers, checksum, inline, location
)
select
    asked.bucket_id, asked.key, asked.version_id, asked.size_bytes, asked.etag, asked.content_type,
    asked.headers::jsonb, asked.checksum, asked.inline, asked.location
from asked
where asked.bucket_id in (select bucket_id from held)
order by asked.bucket_id, asked.key collate "C"
on conflict (bucket_id, key) do update set
    version_id = excluded.version_id,
    size_bytes = excluded.size_bytes,
    etag = excluded.etag,
    last_modified = excluded.last_modified,
    content_type = excluded.content_type,
    headers = excluded.headers,
    checksum = excluded.checksum,
    inline = excluded.inline,
    location = excluded.location,
    upload_id = excluded.upload_id
returning version_id as answers;

-- name: put_object_if_absent
-- Only where no object is yet; no row when there is one, or no bucket.
with held as materialized (
    select bucket_id from buckets where bucket_id = $1 for key share
)
insert into current_objects (
    bucket_id, key, version_id, size_bytes, etag, content_type, headers, checksum, inline, location, upload_id
)
select held.bucket_id, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, $10, $11
from held
on conflict (bucket_id, key) do nothing
returning version_id;

-- name: put_object_if_match
-- Only over the version the caller has seen; no row when it is another, or none.
update current_objects set
    version_id = $3,
    size_bytes = $4,
    etag = $5,
    last_modified = now(),
    content_type = $6,
    headers = $7::text::jsonb,
    checksum = $8,
    inline = $9,
    location = $10,
    upload_id = $11
where bucket_id = $1 and key = $2 and etag = $12
returning version_id;

-- name: put_object_of_parts
-- As put_object, for what an upload became: its bytes are its parts.
with held as materialized (
    select bucket_id from buckets where bucket_id = $1 for key share
)
insert into current_objects (
    bucket_id, key, version_id, size_bytes, etag, content_type, headers, checksum, inline, location, upload_id
)
select held.bucket_id, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, $10, $11
from held
on conflict (bucket_id, key) do update set
    version_id = excluded.version_id,
    size_bytes = excluded.size_bytes,
    etag = excluded.etag,
    last_modified = excluded.last_modified,
    content_type = excluded.content_type,
    headers = excluded.headers,
    checksum = excluded.checksum,
    inline = excluded.inline,
    location = excluded.location,
    upload_id = excluded.upload_id
returning version_id;

-- name: delete_object
-- Deleting what is not there is no error, so a missing answer means only that.
delete from current_objects
using unnest($1::bigint[], $2::text[]) with ordinality as asked (bucket_id, key, ordinal)
where current_objects.bucket_id = asked.bucket_id and current_objects.key = asked.key
returning asked.ordinal;

-- name: delete_object_if_match
-- Only the version the caller has seen.
delete from current_objects where bucket_id = $1 and key = $2 and etag = $3 returning version_id;

-- name: add_upload
-- No row when the bucket is gone.
with held as materialized (
    select bucket_id from buckets where bucket_id = $2 for key share
)
insert into uploads (
    upload_id, bucket_id, key, initiator_id, content_type, headers, checksum_algorithm, full_object
)
select $1, held.bucket_id, $3, $4, $5, $6::text::jsonb, $7, $8
from held
returning upload_id;

-- name: upload
-- What a part needs to know of its upload.
select
    asked.ordinal,
    found.upload_id,
    found.bucket_id,
    found.key,
    found.initiator_id,
    found.initiated_at,
    found.content_type,
    found.headers,
    found.checksum_algorithm,
    found.full_object
from unnest($1::uuid[]) with ordinality as asked (upload_id, ordinal)
cross join lateral (
    select uploads.* from uploads where uploads.upload_id = asked.upload_id offset 0
) as found;

-- name: hold_upload
-- For completing and aborting: nobody else adds parts or ends it meanwhile.
select upload_id from uploads where upload_id = $1 for update;

-- name: put_part
-- A part sent again replaces the earlier one; no row when the upload is over.
with held as materialized (
    select upload_id from uploads where upload_id = $1 for key share
)
insert into parts (upload_id, part_number, size_bytes, etag, checksum, inline, location)
select held.upload_id, $2, $3, $4, $5, $6, $7
from held
on conflict (upload_id, part_number) do update set
    size_bytes = excluded.size_bytes,
    etag = excluded.etag,
    last_modified = now(),
    checksum = excluded.checksum,
    inline = excluded.inline,
    location = excluded.location
returning last_modified;

-- name: parts_after
-- The parts of an upload in order, a page at a time.
select part_number, size_bytes, etag, last_modified, checksum
from parts
where upload_id = $1 and part_number > $2
order by part_number
limit $3;

-- name: parts_of_object
-- Where the bytes of an object in parts lie, as one row of columns: there may be ten thousand parts.
select asked.ordinal, found.sizes_bytes, found.locations, found.inlines
from unnest($1::uuid[]) with ordinality as asked (upload_id, ordinal)
cross join lateral (
    select
        array_agg(parts.size_bytes order by parts.part_number) as sizes_bytes,
        array_agg(parts.location order by parts.part_number) as locations,
        array_agg(parts.inline order by parts.part_number) as inlines
    from parts
    where parts.upload_id = asked.upload_id
) as found;

-- name: part_by_rank
-- Where the nth part of an object lies: GET and HEAD with partNumber.
select start_byte, size_bytes, checksum
from parts
where upload_id = $1
order by part_number
offset $2 limit 1;

-- name: place_parts
-- Says where each part starts in the object, once that is settled.
update parts set start_byte = placed.start_byte
from unnest($2::integer[], $3::bigint[]) as placed (part_number, start_byte)
where parts.upload_id = $1 and parts.part_number = placed.part_number;

-- name: remove_some_parts
-- Parts that were sent but are not in the list that completes the upload.
delete from parts where upload_id = $1 and part_number = any ($2::integer[]);

-- name: remove_parts
-- All parts of an upload that is aborted.
delete from parts where upload_id = $1;

-- name: remove_upload
-- It was completed or aborted.
delete from uploads where upload_id = $1;

-- name: object_of_upload
-- Whether an upload that is over became the object: a repeated request to complete it succeeds again.
select size_bytes, etag, checksum from current_objects where bucket_id = $1 and key = $2 and upload_id = $3;

-- name: uploads_after
-- Uploads under way in a bucket with keys from $2 up to $3, by key and then by age, a page at a time.
select upload_id, key, initiated_at
from uploads
where bucket_id = $1
    and key >= $2
    and key < $3
    and (key, initiated_at, upload_id) > ($4, $5, $6)
order by key, initiated_at, upload_id
limit $7;

-- name: upload_position
-- Where an upload stands in that order, to go on behind it.
select key, initiated_at, upload_id from uploads where upload_id = $1;

-- name: account
-- How the owner of a bucket is called.
select asked.ordinal, found.canonical_id, found.display_name
from unnest($1::bigint[]) with ordinality as asked (account_id, ordinal)
cross join lateral (
    select accounts.* from accounts where accounts.account_id = asked.account_id offset 0
) as found;
