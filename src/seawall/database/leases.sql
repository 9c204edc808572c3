-- name: decide_alone
-- One node at a time decides, or two would grow into the same free connections. A statement of its own: what
-- comes after it must see what the one before committed.
select pg_advisory_xact_lock($1::integer, $2::integer);

-- name: forget_expired
-- A node that has not renewed for so long has given everything back by itself, or is dead.
delete from connection_leases where endpoint = $1 and expires_at <= clock_timestamp();

-- name: leases
-- Who has a lease, in the order in which they came: when there is not enough for all, it lasts for those.
select node, incarnation, weight, demand, granted
from connection_leases
where endpoint = $1
order by joined_at, node, incarnation;

-- name: limits
-- What the server and our role allow. A server before 16 reserves connections for superusers only.
select
    r.rolname as role,
    current_setting('max_connections')::integer as max_connections,
    current_setting('superuser_reserved_connections')::integer
        + coalesce(current_setting('reserved_connections', true), '0')::integer as reserved,
    nullif(r.rolconnlimit, -1) as role_limit,
    r.rolsuper as role_is_superuser,
    pg_has_role(r.rolname, 'pg_read_all_stats', 'usage') as sees_everybody
from pg_roles as r
where r.rolname = current_user;

-- name: activity
-- Whose connections are open. One that has not said its name yet is either a node's, and covered by its lease, or
-- a stranger's, and will be seen next time; one that stays silent is a stranger's.
select
    c.ours,
    c.of_role,
    case when c.ours then split_part(c.application_name, ' ', 2) end as node,
    c.ours and split_part(c.application_name, ' ', 3) = 'lease' as asking,
    count(*) as connections
from (
    select
        a.application_name,
        coalesce(a.usename = current_user, false) as of_role,
        coalesce(a.usename = current_user, false)
            and a.datname = current_database()
            and a.application_name like 'seawall _%' as ours
    from pg_stat_activity as a
    where
        a.backend_type = 'client backend'
        and (a.usename is not null or a.backend_start < clock_timestamp() - interval '1 second')
) as c
group by 1, 2, 3, 4;

-- name: keep
-- Take or renew a lease. It ends by the clock of the server, which all nodes share.
insert into connection_leases (endpoint, node, incarnation, weight, demand, share, granted, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8))
on conflict (endpoint, node, incarnation) do update set
    weight = excluded.weight,
    demand = excluded.demand,
    share = excluded.share,
    granted = excluded.granted,
    expires_at = excluded.expires_at;

-- name: give_back
-- A node that leaves in good order does not let others wait for its lease to end.
delete from connection_leases where endpoint = $1 and node = $2 and incarnation = $3;
