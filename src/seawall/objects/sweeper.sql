-- name: garbage_files
-- Files that lost their name long enough ago, the next thousand of them.
select location from garbage
where location > $1 and location >= 'f/' and location < 'f0' and since < now() - make_interval(secs => $2)
order by location
limit 1000;

-- name: named_locations
-- Which of these blobs have a name: the last look before bytes are removed.
select location from current_objects where location = any ($1::text[])
union all
select location from parts where location = any ($1::text[])
union all
select location from garbage where location = any ($1::text[]) and $2;

-- name: forget_garbage
-- Its bytes are gone.
delete from garbage where location = any ($1::text[]);

-- name: garbage_by_segment
-- How much of each segment is garbage, and since when the last of it.
select
    split_part(location, '/', 2) as segment,
    count(*) as blobs,
    sum(size_bytes)::bigint as size_bytes,
    extract(epoch from now() - max(since))::float8 as age_s
from garbage
where location >= 's/' and location < 's0'
group by 1;

-- name: blobs_in_segment
-- What in a segment has a name, the next few hundred.
select location, size_bytes from current_objects where location > $1 and location < $2
union all
select location, size_bytes from parts where location > $1 and location < $2
order by location
limit $3;

-- name: move_objects
-- Compaction gives blobs new places. Rows are locked in the order writers lock them.
with moved as materialized (
    select * from unnest($1::text[], $2::text[]) as moved (old_location, new_location)
), held as materialized (
    select current_objects.bucket_id, current_objects.key, current_objects.location
    from current_objects
    where current_objects.location = any ($1::text[])
    order by current_objects.bucket_id, current_objects.key
    for update
)
update current_objects set location = moved.new_location
from held
join moved on moved.old_location = held.location
where current_objects.bucket_id = held.bucket_id
    and current_objects.key = held.key
    and current_objects.location = moved.old_location;

-- name: move_parts
-- The same for parts.
with moved as materialized (
    select * from unnest($1::text[], $2::text[]) as moved (old_location, new_location)
), held as materialized (
    select parts.upload_id, parts.part_number, parts.location
    from parts
    where parts.location = any ($1::text[])
    order by parts.upload_id, parts.part_number
    for update
)
update parts set location = moved.new_location
from held
join moved on moved.old_location = held.location
where parts.upload_id = held.upload_id
    and parts.part_number = held.part_number
    and parts.location = moved.old_location;

-- name: forget_segment
-- The segment is gone, and all garbage with it.
delete from garbage where location > $1 and location < $2;

-- name: objects_to_scrub
-- Objects with a blob of their own, in the order in which they lie on the disk.
select bucket_id, key, location, size_bytes from current_objects
where location > $1
order by location
limit 500;

-- name: parts_to_scrub
-- The same for parts.
select upload_id, part_number, location, size_bytes from parts
where location > $1
order by location
limit 500;
