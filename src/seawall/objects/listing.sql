-- name: list_page
-- One page of a bucket as one row of columns: decoding a thousand records costs the node four times as
-- much. Entity tags and checksums hold no blanks, and joined by them they decode as one value each; keys
-- may hold anything.
select
    array_agg(name) filter (where not is_prefix) as keys,
    array_agg(size_bytes) filter (where not is_prefix) as sizes_bytes,
    string_agg(etag, ' ') filter (where not is_prefix) as etags,
    array_agg(date_part('epoch', last_modified)) filter (where not is_prefix) as last_modified_s,
    string_agg(coalesce(checksum, ''), ' ') filter (where not is_prefix) as checksums,
    array_agg(name) filter (where is_prefix) as prefixes
from list_objects($1, $2, $3, $4, $5, $6, $7);
