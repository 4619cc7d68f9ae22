/* Fetching: the chunks of a leader's snapshot, asked for over the peer link.
 *
 * The happy path: fetch_start -> a pool thread opens the file and keeps what an earlier attempt left
 * (OPENING) -> fetch_turn asks for chunks, a few at a time, at most FETCH_WINDOW_BYTES under way in the node
 * and no faster than snapshot_rate_bytes (ASKING) -> pieces arrive in order and fill a slot (fetch_answer) ->
 * a pool thread checks and writes the chunk -> when none is missing, a pool thread makes the file durable
 * (FINISHING) -> WHOLE.
 *
 * What goes wrong: the link ends: what was asked for is asked for again on the next one. A chunk does not
 * match, or the sender cannot read it: it is logged, and asked for again after a pause, FETCH_BAD_MAX times
 * in all. No answer: asked for again after FETCH_STALL_US; nothing at all for FETCH_GIVE_UP_US, the sender
 * has it no more, our disk is full: FAILED. The file stays for the next attempt, whoever sends it then. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"
#define RATE_BURST_US 20000

enum slot_state { SLOT_FREE, SLOT_ASKED, SLOT_FULL, SLOT_WRITING };

struct slot {
    enum slot_state state;
    uint32_t chunk, length, got;
    uint64_t request, heard_us;
    uint8_t *bytes;
};

enum stage { OPENING, ASKING, FINISHING, WHOLE, FAILED };

struct fetch {
    struct group *g;
    uint64_t raft_id;
    struct manifest *manifest;
    struct snapfetch file;
    enum stage stage;
    bool busy;  /* a pool job runs */
    bool ended; /* nobody wants it any more */
    uv_work_t work;
    struct slot *writing;
    enum dn_code job_code; /* the pool thread's while busy */
    struct dn_error job_error;
    enum dn_code code; /* why it FAILED */
    struct dn_error error;
    struct slot slots[FETCH_SLOTS];
    uint32_t next; /* no chunk before is missing, unless it is in a slot */
    uint64_t link; /* connection that was asked */
    unsigned bad;
    uint64_t moved_us, ask_after_us, logged_us, start_us;
    uint64_t here_bytes, fetched_bytes;
};

static void failed(struct fetch *f, enum dn_code code, const char *why)
{
    if (f->stage != FAILED) {
        f->code = dn_fail(&f->error, code, "%s", why);
        f->stage = FAILED;
    }
}

/* ---- slots ------------------------------------------------------------------------------------------ */

static void slot_free(struct fetch *f, struct slot *slot)
{
    if (slot->state != SLOT_FREE) {
        f->g->c->fetch_bytes -= slot->length;
        free(slot->bytes);
        *slot = (struct slot){0};
    }
}

/* The chunk is to be asked for again. */
static void slot_again(struct fetch *f, struct slot *slot)
{
    if (slot->chunk < f->next) {
        f->next = slot->chunk;
    }
    slot_free(f, slot);
}

static void chunk_was_bad(struct fetch *f, uint32_t chunk, enum dn_code code, const char *why, size_t length)
{
    f->bad++;
    if (f->g->c->m_chunks_bad != NULL) {
        dn_counter_add(f->g->c->m_chunks_bad, 1);
    }
    f->ask_after_us = dn_monotonic_us() + FETCH_PAUSE_US;
    dn_warn(COMPONENT, "group %u: snapshot at index %llu: chunk %u from node %llu: %.*s", f->g->id,
            (unsigned long long)f->manifest->name.index, chunk, (unsigned long long)f->raft_id, (int)length,
            why);
    if (f->bad >= FETCH_BAD_MAX) {
        failed(f, code, "too many chunks could not be had; see the lines before");
    }
}

/* ---- pool jobs -------------------------------------------------------------------------------------- */

static void fetch_free(struct fetch *f)
{
    for (unsigned i = 0; i < FETCH_SLOTS; i++) {
        slot_free(f, &f->slots[i]);
    }
    snapfetch_close(&f->file);
    manifest_unref(f->manifest);
    free(f);
}

static void job_over(struct fetch *f)
{
    f->busy = false;
    f->g->pool_jobs--;
    f->g->fetch_jobs--;
    f->g->c->fetch_jobs--;
    f->moved_us = dn_monotonic_us();
    consensus_kick(f->g->c);
}

static void job_start(struct fetch *f, uv_work_cb work, uv_after_work_cb done)
{
    f->busy = true;
    f->g->pool_jobs++;
    f->g->fetch_jobs++;
    f->g->c->fetch_jobs++;
    int rv = uv_queue_work(&f->g->c->loop, &f->work, work, done);
    DN_ASSERT(rv == 0); /* fails only without a callback */
}

static void open_work(uv_work_t *work)
{
    struct fetch *f = container_of(work, struct fetch, work);
    f->job_code = snapfetch_open(&f->file, &f->g->store, f->manifest, &f->g->stopping, &f->job_error);
}

static void open_done(uv_work_t *work, int status)
{
    struct fetch *f = container_of(work, struct fetch, work);
    DN_ASSERT(status == 0);
    job_over(f);
    if (f->ended) {
        fetch_free(f);
        return;
    }
    if (f->job_code != DN_OK) {
        failed(f, f->job_code, f->job_error.message);
        return;
    }
    f->stage = ASKING;
    for (uint32_t i = 0; i < f->manifest->chunk_count; i++) {
        f->here_bytes += snapfetch_has(&f->file, i) ? chunk_bytes(f->manifest, i) : 0;
    }
    if (f->here_bytes > 0) {
        dn_info(COMPONENT, "group %u: %llu of %llu MiB of the snapshot are here from an earlier attempt",
                f->g->id, (unsigned long long)f->here_bytes >> 20,
                (unsigned long long)f->manifest->total_bytes >> 20);
    }
}

static void write_work(uv_work_t *work)
{
    struct fetch *f = container_of(work, struct fetch, work);
    f->job_code =
        snapfetch_put(&f->file, f->writing->chunk, f->writing->bytes, f->writing->length, &f->job_error);
}

static void write_done(uv_work_t *work, int status)
{
    struct fetch *f = container_of(work, struct fetch, work);
    struct slot *slot = f->writing;
    DN_ASSERT(status == 0);
    f->writing = NULL;
    job_over(f);
    if (f->ended) {
        fetch_free(f);
        return;
    }
    if (f->job_code == DN_OK) {
        snapfetch_mark(&f->file, slot->chunk);
        f->here_bytes += slot->length;
        f->fetched_bytes += slot->length;
        if (f->g->c->m_chunks_in != NULL) {
            dn_counter_add(f->g->c->m_chunks_in, 1);
        }
        slot_free(f, slot);
    } else if (f->job_code == DN_CORRUPT) {
        uint32_t chunk = slot->chunk;
        slot_again(f, slot);
        chunk_was_bad(f, chunk, DN_CORRUPT, f->job_error.message, strlen(f->job_error.message));
    } else {
        slot_again(f, slot);
        failed(f, f->job_code, f->job_error.message);
    }
}

static void finish_work(uv_work_t *work)
{
    struct fetch *f = container_of(work, struct fetch, work);
    f->job_code = snapfetch_finish(&f->file, &f->job_error);
}

static void finish_done(uv_work_t *work, int status)
{
    struct fetch *f = container_of(work, struct fetch, work);
    DN_ASSERT(status == 0);
    job_over(f);
    if (f->ended) {
        fetch_free(f);
        return;
    }
    if (f->job_code != DN_OK) {
        failed(f, f->job_code, f->job_error.message);
        return;
    }
    f->stage = WHOLE;
    dn_info(COMPONENT, "group %u: snapshot at index %llu is here: %llu MiB fetched in %llu ms", f->g->id,
            (unsigned long long)f->manifest->name.index, (unsigned long long)f->fetched_bytes >> 20,
            (unsigned long long)(dn_monotonic_us() - f->start_us) / 1000);
}

/* ---- asking ----------------------------------------------------------------------------------------- */

static bool in_a_slot(const struct fetch *f, uint32_t chunk)
{
    for (unsigned i = 0; i < FETCH_SLOTS; i++) {
        if (f->slots[i].state != SLOT_FREE && f->slots[i].chunk == chunk) {
            return true;
        }
    }
    return false;
}

static struct slot *free_slot(struct fetch *f)
{
    for (unsigned i = 0; i < FETCH_SLOTS; i++) {
        if (f->slots[i].state == SLOT_FREE) {
            return &f->slots[i];
        }
    }
    return NULL;
}

/* The next chunk that is neither here nor under way; chunk_count: none. */
static uint32_t next_chunk(struct fetch *f)
{
    while (f->next < f->manifest->chunk_count &&
           (snapfetch_has(&f->file, f->next) || in_a_slot(f, f->next))) {
        f->next++;
    }
    return f->next;
}

static bool ask(struct fetch *f, struct slot *slot, uint32_t chunk, uint64_t now_us)
{
    struct dn_consensus *c = f->g->c;
    uint32_t length = chunk_bytes(f->manifest, chunk);
    struct wire_frame frame = {.type = WIRE_CHUNK_ASK,
                               .request = ++c->next_request,
                               .group = f->g->id,
                               .index = f->manifest->name.index,
                               .term = f->manifest->name.term,
                               .id = f->manifest->name.id,
                               .chunk = chunk};
    uint8_t *bytes = malloc(length);
    if (bytes == NULL || !link_send(c, f->raft_id, &frame)) {
        free(bytes); /* tried again soon */
        return false;
    }
    *slot = (struct slot){.state = SLOT_ASKED,
                          .chunk = chunk,
                          .length = length,
                          .request = frame.request,
                          .heard_us = now_us,
                          .bytes = bytes};
    c->fetch_bytes += length;
    uint64_t from = c->fetch_next_us + RATE_BURST_US < now_us ? now_us - RATE_BURST_US : c->fetch_next_us;
    c->fetch_next_us = from + length * UINT64_C(1000000) / c->o.snapshot_rate_bytes;
    return true;
}

static void ask_more(struct fetch *f, uint64_t now_us)
{
    struct dn_consensus *c = f->g->c;
    int member = member_find(c, f->raft_id);
    bool up = member >= 0 && link_up(c, f->raft_id);
    uint64_t link = up ? c->members[member].link : 0;
    for (unsigned i = 0; i < FETCH_SLOTS; i++) {
        struct slot *slot = &f->slots[i];
        if (slot->state == SLOT_ASKED && (link != f->link || now_us > slot->heard_us + FETCH_STALL_US)) {
            slot_again(f, slot);
        }
    }
    f->link = link;
    while (up && now_us >= f->ask_after_us && now_us >= c->fetch_next_us) {
        struct slot *slot = free_slot(f);
        uint32_t chunk = next_chunk(f);
        if (slot == NULL || chunk >= f->manifest->chunk_count ||
            (c->fetch_bytes > 0 && c->fetch_bytes + chunk_bytes(f->manifest, chunk) > FETCH_WINDOW_BYTES) ||
            !ask(f, slot, chunk, now_us)) {
            return;
        }
    }
}

static struct slot *asked(struct fetch *f, uint64_t request)
{
    for (unsigned i = 0; i < FETCH_SLOTS; i++) {
        if (f->slots[i].state == SLOT_ASKED && f->slots[i].request == request) {
            return &f->slots[i];
        }
    }
    return NULL;
}

static void take_piece(struct fetch *f, struct slot *slot, const struct wire_frame *frame)
{
    if (frame->offset != slot->got || frame->length > slot->length - slot->got) {
        static const char why[] = "its pieces do not fit together";
        uint32_t chunk = slot->chunk;
        slot_again(f, slot);
        chunk_was_bad(f, chunk, DN_CORRUPT, why, sizeof why - 1);
        return;
    }
    memcpy(slot->bytes + slot->got, frame->bytes, frame->length);
    slot->got += (uint32_t)frame->length;
    slot->heard_us = dn_monotonic_us();
    f->moved_us = slot->heard_us;
    if (slot->got == slot->length) {
        slot->state = SLOT_FULL;
    }
}

void fetch_answer(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame)
{
    struct fetch *f = c->groups[frame->group].hold.fetch;
    struct slot *slot = f == NULL || f->raft_id != raft_id ? NULL : asked(f, frame->request);
    if (slot == NULL || slot->chunk != frame->chunk) {
        return; /* too late: asked for again, or not wanted any more */
    }
    if (frame->type == WIRE_CHUNK) {
        take_piece(f, slot, frame);
    } else if (frame->code == DN_NOT_FOUND) {
        failed(f, DN_NOT_FOUND, "the sender has it no more");
    } else {
        slot_again(f, slot);
        f->bad += FETCH_BAD_MAX / 4; /* what cannot be read there seldom gets better */
        chunk_was_bad(f, frame->chunk, frame->code, frame->message, frame->message_length);
    }
    consensus_kick(c);
}

/* ---- life ------------------------------------------------------------------------------------------- */

static void write_next(struct fetch *f)
{
    for (unsigned i = 0; i < FETCH_SLOTS; i++) {
        if (f->slots[i].state == SLOT_FULL) {
            f->slots[i].state = SLOT_WRITING;
            f->writing = &f->slots[i];
            job_start(f, write_work, write_done);
            return;
        }
    }
}

static void log_progress(struct fetch *f, uint64_t now_us)
{
    if (now_us >= f->logged_us + FETCH_LOG_US) {
        f->logged_us = now_us;
        dn_info(COMPONENT, "group %u: snapshot at index %llu from node %llu: %llu of %llu MiB are here",
                f->g->id, (unsigned long long)f->manifest->name.index, (unsigned long long)f->raft_id,
                (unsigned long long)f->here_bytes >> 20, (unsigned long long)f->manifest->total_bytes >> 20);
    }
}

struct fetch *fetch_start(struct group *g, uint64_t raft_id, struct manifest *manifest)
{
    struct fetch *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return NULL;
    }
    f->g = g;
    f->raft_id = raft_id;
    f->manifest = manifest_ref(manifest);
    f->file.fd = -1;
    f->start_us = dn_monotonic_us();
    f->moved_us = f->start_us;
    f->logged_us = f->start_us;
    f->stage = OPENING;
    job_start(f, open_work, open_done);
    return f;
}

enum fetch_state fetch_turn(struct fetch *f, uint64_t now_us, struct dn_error *err)
{
    if (f->stage == ASKING && !bulk_room(f->g->c)) {
        f->moved_us = now_us; /* it is not the sender's fault */
    } else if (f->stage == ASKING && !f->busy) {
        if (f->file.missing == 0) {
            f->stage = FINISHING;
            job_start(f, finish_work, finish_done);
        } else {
            write_next(f);
        }
    }
    if (f->stage == ASKING) {
        ask_more(f, now_us);
        log_progress(f, now_us);
        if (!f->busy && now_us > f->moved_us + FETCH_GIVE_UP_US) {
            failed(f, DN_DEADLINE, "no chunk arrived for a long time");
        }
    }
    if (f->stage == FAILED && !f->busy) {
        *err = f->error;
        err->code = f->code;
        return FETCH_FAILED;
    }
    return f->stage == WHOLE ? FETCH_WHOLE : FETCH_RUNNING;
}

void fetch_end(struct fetch *f)
{
    if (f == NULL) {
        return;
    }
    if (f->busy) {
        f->ended = true;
    } else {
        fetch_free(f);
    }
}
