-- Which node may have how many connections to which server, and until when.

-- The sum of `granted` is what the fleet may have open at the most. A row counts until it expires by this
-- server's clock, whether or not its node is still alive, and its grant is lowered only by the node itself,
-- after it has closed connections. `share` is what the node was last told to aim at, for people to read.
-- A node that was started anew is another incarnation: the old one's grant counts until it expires.
create table connection_leases (
    endpoint text collate "C" not null,
    node text collate "C" not null,
    incarnation uuid not null,
    weight integer not null check (weight > 0),
    demand integer not null check (demand >= 0),
    share integer not null check (share >= 0),
    granted integer not null check (granted > 0),
    joined_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    primary key (endpoint, node, incarnation)
);
