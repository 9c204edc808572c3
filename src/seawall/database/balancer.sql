-- name: look
-- What a server is, and how far it is. A replica that receives nothing follows nobody.
select
    pg_is_in_recovery() as in_recovery,
    case
        when pg_is_in_recovery() then coalesce((select received_tli from pg_stat_wal_receiver), 0)
        else ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer
    end as timeline,
    case
        when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0')
        else pg_current_wal_flush_lsn()
    end as position,
    current_setting('synchronous_commit') <> 'off' as waits_for_disk;

-- name: read_index
-- How far the log is on disk, and which transactions are over: what reads on replicas must show, and may show. The
-- insert position would be further, and include what others have not committed yet.
select asked.ordinal, pg_current_wal_flush_lsn() as position, pg_current_snapshot() as snapshot
from unnest($1::integer[]) with ordinality as asked (nothing, ordinal);

-- name: replayed
-- How far a replica is now. A statement of its own: the next one's snapshot is taken after this was read.
select pg_last_wal_replay_lsn() as position;
