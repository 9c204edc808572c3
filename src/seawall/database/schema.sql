-- What the migrations make, for reading. Nobody runs this file; it is written by
-- WRITE_SCHEMA=1 .venv/bin/python -m pytest tests/database/test_migrations.py -k schema

CREATE FUNCTION public.access_changed() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    update access_epoch set epoch = epoch + 1;
    return null;
end $$;

CREATE FUNCTION public.blob_lost_its_name() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    insert into garbage (location, size_bytes) values (old.location, old.size_bytes) on conflict do nothing;
    return null;
end $$;

CREATE FUNCTION public.list_objects(bucket bigint, prefix text, delimiter text, delimiter_end text, seek text, stop text, page_size integer) RETURNS TABLE(is_prefix boolean, name text, size_bytes bigint, etag text, last_modified timestamp with time zone, checksum text)
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION public.parts_lost_their_object() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    delete from parts where upload_id = old.upload_id;
    return null;
end $$;

CREATE TABLE public.access_epoch (
    singleton boolean DEFAULT true NOT NULL,
    epoch bigint NOT NULL,
    CONSTRAINT access_epoch_singleton_check CHECK (singleton)
);

CREATE TABLE public.access_keys (
    access_key text NOT NULL,
    account_id bigint NOT NULL,
    secret_key text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.accounts (
    account_id bigint NOT NULL,
    canonical_id text NOT NULL,
    name text NOT NULL,
    display_name text NOT NULL,
    email text DEFAULT ''::text NOT NULL,
    is_admin boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    is_background boolean DEFAULT false NOT NULL
);

ALTER TABLE public.accounts ALTER COLUMN account_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.accounts_account_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.buckets (
    bucket_id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    owner_id bigint NOT NULL,
    region text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.buckets ALTER COLUMN bucket_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.buckets_bucket_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.connection_leases (
    endpoint text NOT NULL COLLATE pg_catalog."C",
    node text NOT NULL COLLATE pg_catalog."C",
    incarnation uuid NOT NULL,
    weight integer NOT NULL,
    demand integer NOT NULL,
    share integer NOT NULL,
    granted integer NOT NULL,
    joined_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT connection_leases_demand_check CHECK ((demand >= 0)),
    CONSTRAINT connection_leases_granted_check CHECK ((granted > 0)),
    CONSTRAINT connection_leases_share_check CHECK ((share >= 0)),
    CONSTRAINT connection_leases_weight_check CHECK ((weight > 0))
);

CREATE TABLE public.current_objects (
    bucket_id bigint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    version_id uuid NOT NULL,
    size_bytes bigint NOT NULL,
    etag text NOT NULL,
    last_modified timestamp with time zone DEFAULT now() NOT NULL,
    content_type text,
    headers jsonb,
    checksum text,
    inline bytea,
    location text COLLATE pg_catalog."C",
    upload_id uuid,
    CONSTRAINT bytes_are_in_one_place CHECK ((num_nonnulls(inline, location, upload_id) = 1))
)
WITH (toast_tuple_target='8160');
ALTER TABLE ONLY public.current_objects ALTER COLUMN inline SET STORAGE EXTERNAL;

CREATE TABLE public.garbage (
    location text NOT NULL COLLATE pg_catalog."C",
    size_bytes bigint NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.incidents (
    id text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL,
    began_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    title text NOT NULL,
    record jsonb NOT NULL,
    kept_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT incidents_status_check CHECK ((status = ANY (ARRAY['open'::text, 'resolved'::text])))
);

CREATE TABLE public.parts (
    upload_id uuid NOT NULL,
    part_number integer NOT NULL,
    size_bytes bigint NOT NULL,
    etag text NOT NULL,
    last_modified timestamp with time zone DEFAULT now() NOT NULL,
    checksum text,
    inline bytea,
    location text COLLATE pg_catalog."C",
    start_byte bigint,
    CONSTRAINT bytes_are_in_one_place CHECK ((num_nonnulls(inline, location) = 1))
)
WITH (toast_tuple_target='8160');
ALTER TABLE ONLY public.parts ALTER COLUMN inline SET STORAGE EXTERNAL;

CREATE TABLE public.schema_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    fingerprint text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.service_secret (
    singleton boolean DEFAULT true NOT NULL,
    secret bytea NOT NULL,
    CONSTRAINT service_secret_singleton_check CHECK (singleton)
);

CREATE TABLE public.uploads (
    upload_id uuid NOT NULL,
    bucket_id bigint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    initiator_id bigint NOT NULL,
    initiated_at timestamp with time zone DEFAULT now() NOT NULL,
    content_type text,
    headers jsonb,
    checksum_algorithm text,
    full_object boolean DEFAULT false NOT NULL
);

ALTER TABLE ONLY public.access_epoch
    ADD CONSTRAINT access_epoch_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.access_keys
    ADD CONSTRAINT access_keys_pkey PRIMARY KEY (access_key);

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_canonical_id_key UNIQUE (canonical_id);

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_name_key UNIQUE (name);

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY public.buckets
    ADD CONSTRAINT buckets_name_key UNIQUE (name);

ALTER TABLE ONLY public.buckets
    ADD CONSTRAINT buckets_pkey PRIMARY KEY (bucket_id);

ALTER TABLE ONLY public.connection_leases
    ADD CONSTRAINT connection_leases_pkey PRIMARY KEY (endpoint, node, incarnation);

ALTER TABLE ONLY public.current_objects
    ADD CONSTRAINT current_objects_pkey PRIMARY KEY (bucket_id, key);

ALTER TABLE ONLY public.garbage
    ADD CONSTRAINT garbage_pkey PRIMARY KEY (location);

ALTER TABLE ONLY public.incidents
    ADD CONSTRAINT incidents_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.parts
    ADD CONSTRAINT parts_pkey PRIMARY KEY (upload_id, part_number);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY public.service_secret
    ADD CONSTRAINT service_secret_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_pkey PRIMARY KEY (upload_id);

CREATE INDEX access_keys_by_account ON public.access_keys USING btree (account_id);

CREATE INDEX buckets_by_owner ON public.buckets USING btree (owner_id, name);

CREATE INDEX current_objects_by_location ON public.current_objects USING btree (location) WHERE (location IS NOT NULL);

CREATE INDEX parts_by_location ON public.parts USING btree (location) WHERE (location IS NOT NULL);

CREATE INDEX uploads_by_key ON public.uploads USING btree (bucket_id, key, initiated_at, upload_id);

CREATE TRIGGER access_keys_changed AFTER INSERT OR DELETE OR UPDATE ON public.access_keys FOR EACH STATEMENT EXECUTE FUNCTION public.access_changed();

CREATE TRIGGER accounts_changed AFTER INSERT OR DELETE OR UPDATE ON public.accounts FOR EACH STATEMENT EXECUTE FUNCTION public.access_changed();

CREATE TRIGGER blob_deleted AFTER DELETE ON public.current_objects FOR EACH ROW WHEN ((old.location IS NOT NULL)) EXECUTE FUNCTION public.blob_lost_its_name();

CREATE TRIGGER blob_deleted AFTER DELETE ON public.parts FOR EACH ROW WHEN ((old.location IS NOT NULL)) EXECUTE FUNCTION public.blob_lost_its_name();

CREATE TRIGGER blob_replaced AFTER UPDATE OF location ON public.current_objects FOR EACH ROW WHEN (((old.location IS NOT NULL) AND (old.location IS DISTINCT FROM new.location))) EXECUTE FUNCTION public.blob_lost_its_name();

CREATE TRIGGER blob_replaced AFTER UPDATE OF location ON public.parts FOR EACH ROW WHEN (((old.location IS NOT NULL) AND (old.location IS DISTINCT FROM new.location))) EXECUTE FUNCTION public.blob_lost_its_name();

CREATE TRIGGER parts_deleted AFTER DELETE ON public.current_objects FOR EACH ROW WHEN ((old.upload_id IS NOT NULL)) EXECUTE FUNCTION public.parts_lost_their_object();

CREATE TRIGGER parts_replaced AFTER UPDATE OF upload_id ON public.current_objects FOR EACH ROW WHEN (((old.upload_id IS NOT NULL) AND (old.upload_id IS DISTINCT FROM new.upload_id))) EXECUTE FUNCTION public.parts_lost_their_object();

ALTER TABLE ONLY public.access_keys
    ADD CONSTRAINT access_keys_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(account_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.buckets
    ADD CONSTRAINT buckets_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES public.accounts(account_id);
