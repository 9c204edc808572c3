-- One page of a bucket, in the order of the keys, in one call.

-- Without a delimiter it is a plain range of the primary key. With one, it steps: it looks at the next
-- row, and when that lies in a folder it emits the folder and jumps past it, so that the cost depends
-- on what is returned and not on what the folders hold. After a few keys in a row that lie in no folder
-- it takes all keys up to the next folder at once, which costs a fifth as much a key.
--
-- The caller, who knows the whole delimiter, works out where things end:
--   delimiter_end  what follows a folder when it replaces the delimiter at the end of its name
--   seek           where to start, itself included; not before the prefix
--   stop           where to end, itself excluded: what follows all that starts with the prefix
--
-- The settings make the plan independent of statistics: the index, in its order, always. They cost 2 µs
-- a call. No savepoint and no exception block here: the balancer reads a row's xmin.
create function list_objects(
    bucket bigint, prefix text, delimiter text, delimiter_end text, seek text, stop text, page_size integer
)
returns table (
    is_prefix boolean, name text, size_bytes bigint, etag text, last_modified timestamptz, checksum text
)
language plpgsql stable rows 1000
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    -- Changing over to a batch, and back, costs about as much as ten steps.
    patience constant integer := 8;
    wanted integer := page_size;
    after_prefix constant integer := length(prefix) + 1;
    current_key text collate "C";
    folder_key text collate "C";
    folder_at integer;
    keys_in_a_row integer;
    in_batch integer;
begin
    if delimiter = '' then
        return query
            select false, o.key, o.size_bytes, o.etag, o.last_modified, o.checksum
            from current_objects as o
            where o.bucket_id = bucket and o.key >= seek collate "C" and o.key < stop collate "C"
            order by o.key
            limit wanted;
        return;
    end if;

    while wanted > 0 loop
        -- Steps, until there is no row, the page is full, or several keys in a row lay in no folder.
        -- As one recursive query a step costs half of what it costs as a statement of its own.
        keys_in_a_row := 0;
        for current_key, folder_at, keys_in_a_row, size_bytes, etag, last_modified, checksum in
            with recursive steps as (
                (
                    select
                        o.key, f.folder_at, (f.folder_at = 0)::integer as keys_in_a_row,
                        o.size_bytes, o.etag, o.last_modified, o.checksum
                    from current_objects as o
                    cross join lateral (select strpos(substr(o.key, after_prefix), delimiter) as folder_at) as f
                    where o.bucket_id = bucket and o.key >= seek collate "C" and o.key < stop collate "C"
                    order by o.key
                    limit 1
                )
                union all
                select
                    o.key, f.folder_at, case when f.folder_at = 0 then s.keys_in_a_row + 1 else 0 end,
                    o.size_bytes, o.etag, o.last_modified, o.checksum
                from steps as s
                cross join lateral (
                    select n.key, n.size_bytes, n.etag, n.last_modified, n.checksum
                    from current_objects as n
                    where
                        n.bucket_id = bucket
                        and n.key >= (
                            case
                                when s.folder_at = 0 then s.key || e'\x01'
                                else left(s.key, after_prefix + s.folder_at - 2) || delimiter_end
                            end
                        ) collate "C"
                        and n.key < stop collate "C"
                    order by n.key
                    limit 1
                ) as o
                cross join lateral (select strpos(substr(o.key, after_prefix), delimiter) as folder_at) as f
                where s.keys_in_a_row < patience
            )
            select s.key, s.folder_at, s.keys_in_a_row, s.size_bytes, s.etag, s.last_modified, s.checksum
            from steps as s
            limit wanted
        loop
            is_prefix := folder_at > 0;
            name := case
                when is_prefix then left(current_key, after_prefix + folder_at - 2) || delimiter
                else current_key
            end;
            return next;
            wanted := wanted - 1;
        end loop;
        exit when wanted = 0 or keys_in_a_row < patience;

        -- A batch: all keys before the next folder, if there is one within the page.
        seek := current_key || e'\x01';
        select o.key into folder_key
        from (
            select i.key
            from current_objects as i
            where i.bucket_id = bucket and i.key >= seek collate "C" and i.key < stop collate "C"
            order by i.key
            limit wanted
        ) as o
        where strpos(substr(o.key, after_prefix), delimiter) > 0
        limit 1;
        return query
            select false, o.key, o.size_bytes, o.etag, o.last_modified, o.checksum
            from current_objects as o
            where
                o.bucket_id = bucket
                and o.key >= seek collate "C"
                and o.key < coalesce(folder_key, stop) collate "C"
            order by o.key
            limit wanted;
        exit when folder_key is null;
        get diagnostics in_batch = row_count;
        wanted := wanted - in_batch;
        seek := folder_key;
    end loop;
end
$$;
