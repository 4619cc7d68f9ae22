/* The session state machine on whole Raft clusters in virtual time (libraft's fixture), under random
 * schedules of delay, disconnection, one-way loss and pauses, with snapshots taken and installed on the way.
 *
 * Clients publish events and try each again, under the same event id, until it is answered. A stream consumer
 * runs on every server that thinks it leads, keeps several batches in flight, and goes back when a batch is
 * refused; some of its messages give no event, and whoever leads writes the dead letters elsewhere and says
 * so. All along, every server's state hash after entry n must be the one every other server had. In the end
 * everything is healed; then all servers have the same hash, every acknowledged event and every stream event
 * is in the state exactly once, no event was ever accepted twice, and each message without one became one
 * letter, which was written.
 *
 * DUNLIN_SIM_SEED and DUNLIN_SIM_RUNS choose other schedules; DUNLIN_SIM_TRACE shows libraft's steps. A
 * failure prints its seed. */
#include "session_server.h"

/* ---- proposing ------------------------------------------------------------------------------------- */

static int64_t wall_ms(const struct server *server)
{
    return BASE_MS + (int64_t)raft_fixture_time(&sim->fixture) + server->skew_ms;
}

static void op_answered(struct op *op, int status, const struct answer *answer)
{
    op->in_flight = false;
    if (status != 0) {
        lost_seen++;
        return; /* tried again later, under the same id */
    }
    CHECK(answer->status == DN_RESULT_OK && answer->count == 1, "answer of an event");
    uint8_t outcome = answer->outcomes[0];
    if (outcome == DN_OUTCOME_ACCEPTED) {
        op->accepted++;
        CHECK(op->accepted == 1, "event %llu accepted twice", (unsigned long long)op->event.event_id);
        CHECK(!op->acknowledged, "accepted after it was known as counted");
    }
    duplicates_seen += outcome == DN_OUTCOME_DUPLICATE;
    CHECK(sim->small || outcome == DN_OUTCOME_ACCEPTED || outcome == DN_OUTCOME_DUPLICATE, "outcome %u",
          outcome);
    if (outcome == DN_OUTCOME_ACCEPTED || outcome == DN_OUTCOME_DUPLICATE || outcome == DN_OUTCOME_LATE) {
        op->acknowledged = true;
        acknowledged_seen++;
    }
}

static void stream_answered(struct server *server, const struct request *request, int status,
                            const struct answer *answer)
{
    if (request->era != server->era) {
        return;
    }
    server->in_flight--;
    if (status != 0) {
        server->led = false; /* begins anew from the state */
        return;
    }
    if (answer->status == DN_RESULT_GAP) {
        gaps_seen++;
        server->next = answer->next_offset;
        return;
    }
    CHECK(answer->status == DN_RESULT_OK, "status %d of a batch", answer->status);
    for (uint32_t i = 0; i < answer->count; i++) {
        CHECK(sim->small || answer->outcomes[i] == DN_OUTCOME_ACCEPTED ||
                  answer->outcomes[i] == DN_OUTCOME_DUPLICATE,
              "stream outcome %u", answer->outcomes[i]);
    }
}

static void request_done(struct raft_apply *raft, int status, void *result)
{
    struct request *request = (struct request *)raft;
    struct server *server = request->server;
    const struct answer *answer = NULL;
    if (status == 0) {
        uint64_t entry = (uint64_t)(uintptr_t)result;
        answer = &server->answers[entry % ANSWERS];
        CHECK(request->kind == REQUEST_OTHER || answer->entry == entry, "answer overwritten");
    }
    if (request->kind == REQUEST_OP) {
        op_answered(&sim->ops[request->op], status, answer);
    } else if (request->kind == REQUEST_STREAM) {
        stream_answered(server, request, status, answer);
    }
    if (request->previous != NULL) {
        request->previous->next = request->next;
    } else {
        sim->requests = request->next;
    }
    if (request->next != NULL) {
        request->next->previous = request->previous;
    }
    free(request);
}

static bool propose(struct server *server, const struct dn_buffer *record, int kind, size_t op)
{
    struct raft *raft = raft_fixture_get(&sim->fixture, server->number);
    struct dn_buffer entry;
    dn_buffer_init(&entry, 1u << 20);
    dn_buffer_i64(&entry, wall_ms(server));
    dn_buffer_blob(&entry, record != NULL ? record->bytes : NULL, record != NULL ? record->length : 0);
    dn_buffer_pad(&entry, 8);
    struct raft_buffer buf = {.len = entry.length, .base = raft_malloc(entry.length)};
    memcpy(buf.base, entry.bytes, entry.length);
    dn_buffer_free(&entry);

    struct request *request = calloc(1, sizeof *request);
    request->kind = kind;
    request->op = op;
    request->server = server;
    request->era = server->era;
    if (raft_apply(raft, &request->raft, &buf, 1, request_done) != 0) {
        raft_free(buf.base);
        free(request);
        return false;
    }
    request->next = sim->requests;
    if (request->next != NULL) {
        request->next->previous = request;
    }
    sim->requests = request;
    return true;
}

static bool leads(const struct server *server)
{
    return raft_fixture_alive(&sim->fixture, server->number) &&
           raft_state(raft_fixture_get(&sim->fixture, server->number)) == RAFT_LEADER;
}

/* Some server that thinks it leads, or NULL. */
static struct server *any_leader(void)
{
    unsigned from = (unsigned)rnd(sim->n);
    for (unsigned i = 0; i < sim->n; i++) {
        struct server *server = &sim->servers[(from + i) % sim->n];
        if (leads(server)) {
            return server;
        }
    }
    return NULL;
}

static struct dn_hash128 user_of(uint64_t n)
{
    return (struct dn_hash128){.high = n * 0x9e3779b97f4a7c15u, .low = n};
}

static void op_new(struct server *leader)
{
    struct op *op = &sim->ops[sim->op_count];
    uint64_t id = ++sim->next_id;
    snprintf(op->item, sizeof op->item, sim->small ? "i%llu" : "api-%llu",
             (unsigned long long)(sim->small ? rnd(30) : id));
    op->event = (struct dn_event_in){
        .user = user_of(rnd(sim->small ? 20 : CLIENTS)),
        .event_id = id,
        .time_ms = wall_ms(leader) - (int64_t)rnd(20000),
        .weight = DN_WEIGHT_ONE,
        .type = (uint8_t)(1 + rnd(DN_EVENT_TYPE_MAX)),
        .item = op->item,
        .item_length = (uint16_t)strlen(op->item),
    };
    sim->op_count++;
}

static void op_propose(struct server *leader, size_t at)
{
    struct dn_buffer record;
    dn_buffer_init(&record, 65536);
    dn_record_events(&record, &sim->ops[at].event, 1);
    sim->ops[at].in_flight = propose(leader, &record, REQUEST_OP, at);
    dn_buffer_free(&record);
}

static void clients_act(void)
{
    struct server *leader = any_leader();
    if (leader == NULL) {
        return;
    }
    if (!sim->quiet && sim->op_count < OPS_MAX) {
        op_new(leader);
        op_propose(leader, sim->op_count - 1);
    }
    /* Retries: of what was lost, and now and then of what was answered long ago. */
    for (int i = 0; i < 4 && sim->op_count > 0; i++) {
        size_t at = rnd(sim->op_count);
        struct op *op = &sim->ops[at];
        if (!op->in_flight && (!op->acknowledged || rnd(10) == 0)) {
            op_propose(leader, at);
        }
    }
}

/* ---- the stream consumer ----------------------------------------------------------------------------- */

static void stream_grow(void)
{
    if (sim->quiet || sim->stream_count == STREAM_MAX) {
        return;
    }
    size_t at = sim->stream_count++;
    uint64_t id = ++sim->next_id;
    snprintf(sim->stream_items[at], sizeof sim->stream_items[at], sim->small ? "i%llu" : "stream-%llu",
             (unsigned long long)(sim->small ? rnd(30) : id));
    sim->stream_end += (int64_t)rnd(3); /* compaction */
    sim->stream[at] = (struct dn_event_in){
        .user = user_of(rnd(sim->small ? 20 : CLIENTS)),
        .time_ms = BASE_MS + (int64_t)raft_fixture_time(&sim->fixture) - (int64_t)rnd(5000),
        .weight = DN_WEIGHT_ONE,
        .type = rnd(8) == 0 ? 0 : DN_EVENT_VIEW,
        .offset = sim->stream_end++,
        .item = sim->stream_items[at],
        .item_length = (uint16_t)strlen(sim->stream_items[at]),
    };
}

static void consumer_seek(struct server *server)
{
    server->next = DN_OFFSET_UNSET;
    dn_epoch_enter(server->reader);
    dn_shard_next_offset(server->shard, SOURCE, PARTITION, &server->next);
    dn_epoch_leave(server->reader);
}

static void consumer_act(struct server *server)
{
    if (!leads(server)) {
        server->led = false;
        return;
    }
    if (!server->led) {
        server->led = true;
        server->era++;
        server->in_flight = 0;
        consumer_seek(server);
    }
    if (server->in_flight == 0 && server->next >= sim->stream_end) {
        consumer_seek(server); /* the last batch may be the one that was lost */
    }
    if (server->in_flight == BATCHES_IN_FLIGHT || server->next >= sim->stream_end) {
        return;
    }
    struct dn_event_in batch[BATCH_MAX];
    struct dn_dead_in dead[BATCH_MAX];
    size_t count = 0, marks = 0, most = 1 + rnd(BATCH_MAX);
    int64_t next = sim->stream_end;
    for (size_t i = 0; i < sim->stream_count; i++) {
        const struct dn_event_in *message = &sim->stream[i];
        if (message->offset < server->next) {
            continue;
        }
        if (count + marks == most) {
            next = sim->stream[i - 1].offset + 1;
            break;
        }
        if (message->type == 0) {
            dead[marks++] = (struct dn_dead_in){.offset = message->offset, .reason = DN_DEAD_UNDECODABLE};
        } else {
            batch[count++] = *message;
        }
    }
    struct dn_buffer record;
    dn_buffer_init(&record, 65536);
    dn_record_stream(&record, SOURCE, PARTITION, server->next, next, batch, count, dead, marks);
    if (!sim->quiet && rnd(40) == 0) { /* sometimes one is lost on its way */
        server->next = next;
    } else if (propose(server, &record, REQUEST_STREAM, 0)) {
        server->in_flight++;
        server->next = next;
    }
    dn_buffer_free(&record);
}

static void writer_act(struct server *server)
{
    uint64_t written = 0, next = 0;
    dn_shard_dead_range(server->shard, &written, &next);
    if (!leads(server) || written == next || rnd(3) > 0) {
        return;
    }
    struct dn_buffer record;
    dn_buffer_init(&record, 4096);
    dn_record_dead_written(&record, letters_write(server));
    propose(server, &record, REQUEST_OTHER, 0); /* lost: the next one writes them again */
    dn_buffer_free(&record);
}

/* ---- faults ---------------------------------------------------------------------------------------- */

static void connect_again(unsigned i, unsigned j)
{
    if (sim->cut[i][j]) {
        raft_fixture_reconnect(&sim->fixture, i, j);
        sim->cut[i][j] = false;
    }
}

/* The fixture allows loss only on what is connected. */
static void connect_all_of(unsigned i)
{
    for (unsigned j = 0; j < sim->n; j++) {
        if (i != j) {
            connect_again(i, j);
            connect_again(j, i);
        }
    }
}

static void fault(void)
{
    struct raft_fixture *f = &sim->fixture;
    unsigned i = (unsigned)rnd(sim->n), j = (i + 1 + (unsigned)rnd(sim->n - 1)) % sim->n;
    switch (rnd(10)) {
    case 0:
        if (raft_fixture_alive(f, i)) {
            connect_all_of(i);
            raft_fixture_kill(f, i);
        }
        break;
    case 1:
    case 2:
        for (unsigned k = 0; k < sim->n; k++) {
            if (!raft_fixture_alive(f, k)) {
                connect_all_of(k);
                raft_fixture_revive(f, k);
                break;
            }
        }
        break;
    case 3:
        if (raft_fixture_alive(f, i) && raft_fixture_alive(f, j)) {
            connect_again(i, j);
            raft_fixture_saturate(f, i, j); /* one way */
        }
        break;
    case 4:
    case 5:
        if (raft_fixture_alive(f, i) && raft_fixture_alive(f, j)) {
            connect_again(i, j);
            raft_fixture_desaturate(f, i, j);
        }
        break;
    case 6:
        if (raft_fixture_alive(f, i) && raft_fixture_alive(f, j) && !sim->cut[i][j]) {
            raft_fixture_disconnect(f, i, j);
            sim->cut[i][j] = true;
        }
        break;
    case 7:
        connect_all_of(i);
        break;
    case 8:
        raft_fixture_set_network_latency(f, i, 1 + (unsigned)rnd(rnd(4) == 0 ? 400 : 30));
        break;
    default:
        raft_fixture_set_disk_latency(f, i, 1 + (unsigned)rnd(rnd(4) == 0 ? 200 : 20));
        break;
    }
}

static void heal(void)
{
    struct raft_fixture *f = &sim->fixture;
    for (unsigned i = 0; i < sim->n; i++) {
        connect_all_of(i);
    }
    for (unsigned i = 0; i < sim->n; i++) {
        if (!raft_fixture_alive(f, i)) {
            raft_fixture_revive(f, i);
        }
        raft_fixture_set_network_latency(f, i, 5);
        raft_fixture_set_disk_latency(f, i, 2);
    }
    for (unsigned i = 0; i < sim->n; i++) {
        for (unsigned j = 0; j < sim->n; j++) {
            if (i != j) {
                raft_fixture_desaturate(f, i, j);
            }
        }
    }
}

/* Followers far behind take none: otherwise each would be brought up by its own, and none by the leader's. */
static void allow_snapshots(void)
{
    for (unsigned i = 0; i < sim->n; i++) {
        sim->servers[i].may_snapshot =
            raft_fixture_alive(&sim->fixture, i) && sim->servers[i].entry + 2 >= sim->entries;
    }
}

/* ---- one schedule ------------------------------------------------------------------------------------ */

static void everyone_acts(void)
{
    allow_snapshots();
    for (int i = 0; i < 2; i++) {
        clients_act();
    }
    for (int i = 0; i < 3; i++) {
        stream_grow();
    }
    for (unsigned i = 0; i < sim->n; i++) {
        consumer_act(&sim->servers[i]);
        writer_act(&sim->servers[i]);
    }
    if (rnd(4) == 0) {
        struct server *leader = any_leader();
        if (leader != NULL) {
            propose(leader, NULL, REQUEST_OTHER, 0);
        }
    }
    if (rnd(30) == 0) {
        struct server *leader = any_leader();
        struct dn_buffer record;
        dn_buffer_init(&record, 4096);
        if (leader != NULL) {
            dn_record_erase(&record, user_of(sim->small ? rnd(20) : 1000 + rnd(3)), wall_ms(leader),
                            rnd(100));
            propose(leader, &record, REQUEST_OTHER, 0);
        }
        dn_buffer_free(&record);
    }
}

static void server_open(struct server *server, unsigned number)
{
    server->number = number;
    server->skew_ms = (int64_t)rnd(4000) - 2000;
    server->epoch = dn_epoch_create();
    server->reader = dn_epoch_register(server->epoch);
    server->arena = dn_arena_create(65536, 4u << 20);
    server->shard = dn_shard_create(server->epoch);
    server->fsm = (struct raft_fsm){
        .version = 1, .data = server, .apply = fsm_apply, .snapshot = fsm_snapshot, .restore = fsm_restore};
}

static void server_close(struct server *server)
{
    dn_shard_destroy(server->shard);
    dn_epoch_unregister(server->reader);
    dn_epoch_destroy(server->epoch);
    dn_arena_destroy(server->arena);
}

/* The fixture's timeouts stay as they are set, so two servers may split the vote for ever. */
static void election_timeouts(void)
{
    for (unsigned i = 0; i < sim->n; i++) {
        raft_fixture_set_randomized_election_timeout(&sim->fixture, i, 1000 + (unsigned)rnd(1000));
    }
}

static int (*fixture_start)(struct raft_io *, unsigned, raft_io_tick_cb, raft_io_recv_cb);
static raft_io_recv_cb raft_receive;

/* libraft 0.22.1 crashes on an InstallSnapshot that arrives while it takes a snapshot itself: lose that one.
 */
static void receive(struct raft_io *io, struct raft_message *message)
{
    const struct raft *raft = io->data;
    if (message->type == RAFT_INSTALL_SNAPSHOT && raft->legacy.snapshot_taking) {
        raft_configuration_close(&message->install_snapshot.conf);
        raft_free(message->install_snapshot.data.base);
        return;
    }
    raft_receive(io, message);
}

static int start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    raft_receive = recv;
    return fixture_start(io, msecs, tick, receive);
}

/* A leader of libraft 0.22.1 that takes a new snapshot between deciding to send one and loading it sends the
 * new one's index with the old one's term; the follower that installs it can never agree with the log again.
 * The term is put right here. */
static int (*fixture_snapshot_put)(struct raft_io *, unsigned, struct raft_io_snapshot_put *,
                                   const struct raft_snapshot *, raft_io_snapshot_put_cb);
static int (*fixture_send)(struct raft_io *, struct raft_io_send *, const struct raft_message *,
                           raft_io_send_cb);

static int snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                        const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb done)
{
    CHECK(snapshot->index < ENTRIES_MAX, "too many entries");
    raft_term *term = &sim->snapshot_terms[snapshot->index];
    CHECK(*term == 0 || *term == snapshot->term, "two snapshots at one index with different terms");
    *term = snapshot->term;
    return fixture_snapshot_put(io, trailing, req, snapshot, done);
}

static int send_right(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                      raft_io_send_cb done)
{
    struct raft_message right = *message;
    if (right.type == RAFT_INSTALL_SNAPSHOT) {
        right.install_snapshot.last_term = sim->snapshot_terms[right.install_snapshot.last_index];
    }
    return fixture_send(io, req, &right, done);
}

/* In place of the fixture's own, whose arithmetic is wrong once a snapshot was installed (it writes beyond
 * its array). What the fixture keeps as "disk" is read only by a restart, and it has none. */
static int truncate_nothing(struct raft_io *io, raft_index index)
{
    (void)io;
    (void)index;
    return 0;
}

static void sim_open(unsigned n)
{
    struct raft_fixture *f = &sim->fixture;
    struct raft_configuration configuration;
    sim->n = n;
    CHECK(raft_fixture_init(f) == 0, "fixture");
    for (unsigned i = 0; i < n; i++) {
        server_open(&sim->servers[i], i);
        CHECK(raft_fixture_grow(f, &sim->servers[i].fsm) == 0, "fixture");
    }
    CHECK(raft_fixture_configuration(f, n, &configuration) == 0, "fixture");
    CHECK(raft_fixture_bootstrap(f, &configuration) == 0, "fixture");
    raft_configuration_close(&configuration);
    for (unsigned i = 0; i < n; i++) {
        struct raft *raft = raft_fixture_get(f, i);
        raft->io->truncate = truncate_nothing;
        fixture_start = raft->io->start;
        raft->io->start = start;
        fixture_snapshot_put = raft->io->snapshot_put;
        raft->io->snapshot_put = snapshot_put;
        fixture_send = raft->io->send;
        raft->io->send = send_right;
        if (getenv("DUNLIN_SIM_TRACE") == NULL) {
            raft->tracer = NULL; /* it writes every step to standard error */
        }
        raft_set_pre_vote(raft, true);
        raft_set_snapshot_threshold(raft, 20 + (unsigned)rnd(60));
        raft_set_snapshot_trailing(raft, 2 + (unsigned)rnd(20));
    }
    election_timeouts();
    CHECK(raft_fixture_start(f) == 0, "fixture");
}

static void sim_close(void)
{
    raft_fixture_close(&sim->fixture);
    while (sim->requests != NULL) { /* of those that never heard back */
        struct request *request = sim->requests;
        sim->requests = request->next;
        free(request);
    }
    for (unsigned i = 0; i < sim->n; i++) {
        server_close(&sim->servers[i]);
    }
}

static void settings_propose(void)
{
    struct dn_shard_settings settings;
    struct dn_buffer record;
    dn_shard_settings_default(&settings);
    settings.events_per_user = 1000;
    settings.ids_per_user = 10000;
    if (sim->small) {
        settings.events_per_user = 5;
        settings.ids_per_user = 8;
        settings.users_max = 8;
        settings.items_max = 20;
        settings.lateness_ms = 1500;
        settings.idle_ms = 4000;
    }
    bool elected = false;
    for (int i = 0; i < 20 && !elected; i++) {
        election_timeouts();
        elected = raft_fixture_step_until_has_leader(&sim->fixture, 5000);
    }
    CHECK(elected, "no first leader");
    dn_buffer_init(&record, 4096);
    dn_record_settings(&record, &settings);
    CHECK(propose(any_leader(), &record, REQUEST_OTHER, 0), "settings");
    dn_buffer_free(&record);
    raft_fixture_step_until_elapsed(&sim->fixture, 2000);
}

static bool all_done(void)
{
    int64_t next = 0;
    uint64_t written = 0, letters = 0;
    const struct server *first = &sim->servers[0];
    for (size_t i = 0; i < sim->op_count; i++) {
        if (!sim->small && !sim->ops[i].acknowledged) {
            return false;
        }
    }
    for (unsigned i = 0; i < sim->n; i++) {
        if (sim->servers[i].entry != sim->entries) {
            return false;
        }
    }
    dn_epoch_enter(first->reader);
    dn_shard_next_offset(first->shard, SOURCE, PARTITION, &next);
    dn_shard_dead_range(first->shard, &written, &letters);
    dn_epoch_leave(first->reader);
    return next == sim->stream_end && written == letters;
}

/* For the message of a run that does not end. */
static void print_state(void)
{
    size_t unanswered = 0, in_flight = 0;
    for (size_t i = 0; i < sim->op_count; i++) {
        unanswered += !sim->ops[i].acknowledged;
        in_flight += sim->ops[i].in_flight;
    }
    fprintf(stderr, "%zu events unanswered, %zu in flight; stream ends at %lld\n", unanswered, in_flight,
            (long long)sim->stream_end);
    for (unsigned i = 0; i < sim->n; i++) {
        struct raft *raft = raft_fixture_get(&sim->fixture, i);
        fprintf(
            stderr,
            "server %u: state %d term %llu entry %llu of %llu, index %llu, consumer at %lld, %u in flight\n",
            i, raft_state(raft), (unsigned long long)raft_current_term(raft),
            (unsigned long long)sim->servers[i].entry, (unsigned long long)sim->entries,
            (unsigned long long)raft_last_applied(raft), (long long)sim->servers[i].next,
            sim->servers[i].in_flight);
    }
}

static void converge(void)
{
    heal();
    sim->quiet = true;
    for (int i = 0; i < 6000 && !all_done(); i++) {
        if (i % 100 == 0) {
            election_timeouts();
        }
        /* As in the product, an idle leader commits ticks. Here they are also what ends a loop in libraft: a
         * follower whose own snapshot is newer than what the leader knows it to have (its answers were lost)
         * refuses both the entries before that snapshot and the leader's older snapshot, until the leader
         * takes a newer one. */
        if (i % 7 == 6) {
            struct server *leader = any_leader();
            if (leader != NULL) {
                propose(leader, NULL, REQUEST_OTHER, 0);
            }
        }
        raft_fixture_step_until_elapsed(&sim->fixture, 30);
        allow_snapshots();
        for (size_t at = 0; at < sim->op_count; at++) {
            struct server *leader = any_leader();
            if (leader != NULL && !sim->ops[at].in_flight && !sim->ops[at].acknowledged && !sim->small) {
                op_propose(leader, at);
            }
        }
        for (unsigned k = 0; k < sim->n; k++) {
            consumer_act(&sim->servers[k]);
            writer_act(&sim->servers[k]);
        }
    }
    if (!all_done()) {
        print_state();
    }
    CHECK(all_done(), "the healed cluster does not finish");
}

static unsigned times_in_state(struct server *server, struct dn_hash128 user, const char *item)
{
    struct dn_session_view view;
    unsigned times = 0;
    dn_arena_reset(server->arena);
    dn_epoch_enter(server->reader);
    if (dn_shard_read(server->shard, user, server->arena, &view) == DN_OK) {
        for (size_t i = 0; i < view.event_count; i++) {
            times += view.events[i].item_length == strlen(item) &&
                     memcmp(view.events[i].item, item, strlen(item)) == 0;
        }
    }
    dn_epoch_leave(server->reader);
    return times;
}

static void check_state(struct server *server)
{
    CHECK(dn_shard_hash(server->shard) == sim->hashes[sim->entries], "server %u", server->number);
    CHECK(dn_shard_hash(server->shard) == dn_shard_hash_recompute(server->shard), "server %u",
          server->number);
    letters_check(server);
    if (sim->small) {
        return;
    }
    for (size_t i = 0; i < sim->op_count; i++) {
        unsigned times = times_in_state(server, sim->ops[i].event.user, sim->ops[i].item);
        CHECK(times == 1, "%s is %u times in the state of server %u", sim->ops[i].item, times,
              server->number);
    }
    for (size_t i = 0; i < sim->stream_count; i++) {
        unsigned times = times_in_state(server, sim->stream[i].user, sim->stream_items[i]);
        CHECK(times == (sim->stream[i].type != 0), "%s is %u times in the state of server %u",
              sim->stream_items[i], times, server->number);
    }
}

static void schedule(uint64_t seed)
{
    current_seed = seed;
    random_state = seed * 1000003;
    sim = calloc(1, sizeof *sim);
    sim->small = seed % 4 == 3;
    sim_open(seed % 3 == 2 ? 5 : 3);
    settings_propose();
    unsigned rounds = 60 + (unsigned)rnd(120);
    for (unsigned i = 0; i < rounds; i++) {
        if (rnd(4) == 0) {
            fault();
        }
        if (rnd(20) == 0) {
            election_timeouts();
        }
        everyone_acts();
        raft_fixture_step_until_elapsed(&sim->fixture, 1 + (unsigned)rnd(120));
    }
    converge();
    for (unsigned i = 0; i < sim->n; i++) {
        check_state(&sim->servers[i]);
    }
    sim_close();
    free(sim);
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void test_schedules(void **state)
{
    (void)state;
    uint64_t seed = from_env("DUNLIN_SIM_SEED", 1), runs = from_env("DUNLIN_SIM_RUNS", 300);
    for (uint64_t i = 0; i < runs; i++) {
        schedule(seed + i);
    }
    printf("%llu schedules: %llu acknowledgements, %llu proposals lost, %llu duplicates, %llu gaps, %llu "
           "snapshots taken, %llu installed, %llu letters, %llu of them again\n",
           (unsigned long long)runs, (unsigned long long)acknowledged_seen, (unsigned long long)lost_seen,
           (unsigned long long)duplicates_seen, (unsigned long long)gaps_seen, (unsigned long long)taken_seen,
           (unsigned long long)installed_seen, (unsigned long long)letters_seen,
           (unsigned long long)letters_again_seen);
    if (runs >= 100) { /* what never happens is not tested */
        CHECK(lost_seen > 0 && duplicates_seen > 0 && gaps_seen > 0 && taken_seen > 0 && installed_seen > 0 &&
                  letters_seen > 0 && letters_again_seen > 0,
              "a path was not taken");
    }
}

/* The fixture loses the memory of InstallSnapshot messages that it drops. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:ioFlushSend\n";
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schedules)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
