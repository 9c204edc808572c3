-- name: server
-- What a server is, once for each session with it. What we may not see is not there: `pg_settings` leaves it out,
-- where `current_setting` would fail.
select jsonb_build_object(
    'data_directory', (select setting from pg_settings where name = 'data_directory'),
    'sockets', (select setting from pg_settings where name = 'unix_socket_directories'),
    'port', (select setting::integer from pg_settings where name = 'port'),
    'connections_max',
        current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true), '0')::integer,
    'role_max', (select nullif(r.rolconnlimit, -1) from pg_roles as r where r.rolname = $1)
)::text;

-- name: look
-- All that a diagnosis wants to know of a server in one statement, for each trip may be the last that succeeds: how
-- many are there, who waits for whom, who has done one thing for long, and how late replicas are. Lists are bounded.
-- Whose locks are waited for is asked only of those who wait: it stops the server's lock table for a moment.
with sessions as materialized (
    select
        a.pid,
        extract(epoch from a.backend_start)::float8 as began_s,
        coalesce(a.usename::text, '') as role,
        coalesce(a.application_name, '') as application,
        coalesce(a.state, '') as state,
        left(coalesce(a.query, ''), 2000) as doing,
        greatest(0, extract(epoch from clock_timestamp() - case
            when a.state = 'active' then a.query_start
            else a.state_change
        end))::float8 as for_s,
        coalesce(a.usename::text = $1, false) as is_ours,
        coalesce(a.usename::text = $1, false) and a.application_name like 'seawall %' as is_service,
        a.state = 'active' and a.wait_event_type = 'Lock' as waits_for_lock,
        a.state = 'active' and a.wait_event is null as runs
    from pg_stat_activity as a
    where a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
),
waiting_since as materialized (
    select l.pid, min(l.waitstart) as since
    from pg_locks as l
    where not l.granted and (select bool_or(s.waits_for_lock) from sessions as s)
    group by l.pid
),
waiters as materialized (
    select
        s.pid,
        pg_blocking_pids(s.pid) as blockers,
        coalesce(extract(epoch from clock_timestamp() - w.since)::float8, s.for_s) as waited_s
    from sessions as s
    left join waiting_since as w on w.pid = s.pid
    where s.waits_for_lock
    order by s.for_s desc
    limit 100
)
select jsonb_build_object(
    'in_recovery', pg_is_in_recovery(),
    'opened_ever', (select d.sessions from pg_stat_database as d where d.datname = current_database()),
    'counts', (
        select jsonb_build_object(
            'connections', count(*) + 1,
            'foreign', count(*) filter (where not s.is_service),
            'role', count(*) filter (where s.is_ours),
            'active', count(*) filter (where s.state = 'active'),
            'active_foreign', count(*) filter (where s.runs and not s.is_service),
            'lock_waiters', count(*) filter (where s.waits_for_lock),
            'idle_in_transaction', count(*) filter (where s.state like 'idle in transaction%'),
            'idle_in_transaction_s', max(s.for_s) filter (where s.state like 'idle in transaction%'),
            'longest_statement_s', max(s.for_s) filter (where s.state = 'active')
        )
        from sessions as s
    ),
    'waiters', (select jsonb_agg(to_jsonb(w)) from waiters as w),
    'blockers', (
        select jsonb_agg(to_jsonb(s) - 'runs' - 'is_service')
        from (
            select * from sessions
            where pid in (select unnest(w.blockers) from waiters as w)
            order by waits_for_lock, for_s desc
            limit 50
        ) as s
    ),
    'longest', (
        select jsonb_agg(to_jsonb(s) - 'runs' - 'is_service')
        from (select * from sessions where state = 'active' order by for_s desc limit 5) as s
    ),
    'idle', (
        select jsonb_agg(to_jsonb(s) - 'runs' - 'is_service')
        from (select * from sessions where state like 'idle in transaction%' order by for_s desc limit 5) as s
    ),
    'holders', (
        select jsonb_agg(to_jsonb(h))
        from (
            select
                application,
                role,
                count(*) as connections,
                count(*) filter (where state like 'idle in transaction%') as idle_in_transaction,
                bool_and(is_ours) as is_ours
            from sessions
            group by application, role
            order by count(*) desc
            limit 10
        ) as h
    ),
    'replicas', (
        select jsonb_agg(to_jsonb(r))
        from (
            select
                coalesce(nullif(application_name, ''), host(client_addr), 'a replica') as name,
                coalesce(state, '') as state,
                extract(epoch from replay_lag)::float8 as lag_s,
                coalesce(pg_wal_lsn_diff(sent_lsn, replay_lsn), 0)::bigint as lag_bytes
            from pg_stat_replication
            order by replay_lag desc nulls last
            limit 10
        ) as r
    )
)::text;

-- name: cancel
-- Stop what a session does, if it is still the session that was meant (its process number may be another's by now), and
-- does what it did when it was seen: in the same state, for as long as that at the least.
select coalesce((
    select pg_cancel_backend(a.pid) from pg_stat_activity as a
    where
        a.pid = $1::integer and abs(extract(epoch from a.backend_start)::float8 - $2::float8) < 0.001
        and a.state = $3::text
        and clock_timestamp() - case when a.state = 'active' then a.query_start else a.state_change end
            >= $4::float8 * interval '1 second'
), false);

-- name: terminate
-- End a session that goes on all the same; the same holds for it.
select coalesce((
    select pg_terminate_backend(a.pid) from pg_stat_activity as a
    where
        a.pid = $1::integer and abs(extract(epoch from a.backend_start)::float8 - $2::float8) < 0.001
        and a.state = $3::text
        and clock_timestamp() - case when a.state = 'active' then a.query_start else a.state_change end
            >= $4::float8 * interval '1 second'
), false);
