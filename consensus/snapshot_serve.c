/* Serving: chunks of our snapshots for nodes that fetch them.
 *
 * The happy path: an ask arrives (serve_ask) and waits in the queue of its node -> serve_turn gives it to a
 * pool thread when that node's link is nearly empty -> the thread reads and checks the chunk -> it goes out
 * in pieces. One chunk at a time for each node, so several are served at once and none holds more memory than
 * one chunk.
 *
 * What goes wrong: we do not have that snapshot (any more): NOT_FOUND. The chunk is damaged here: it is said
 * to the node, logged with the file, and a new snapshot is taken soon. The link ended: the ask is forgotten.
 *
 * A snapshot that was asked for is kept for SNAP_PIN_US (snapshot.c prunes). */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"

struct serve_job {
    uv_work_t work;
    struct group *g;
    struct serve *serve;
    struct serve_ask ask;
    uint8_t *bytes;
    enum dn_code code;
    struct dn_error error;
};

/* ---- which snapshot --------------------------------------------------------------------------------- */

static void pin(struct group *g, struct manifest *manifest)
{
    struct pin *at = &g->pins[0];
    for (unsigned i = 0; i < SNAP_PINS; i++) {
        struct pin *p = &g->pins[i];
        if (p->manifest == manifest) {
            at = p;
            break;
        }
        if (p->manifest == NULL || (at->manifest != NULL && p->until_us < at->until_us)) {
            at = p;
        }
    }
    manifest_ref(manifest);
    manifest_unref(at->manifest);
    *at = (struct pin){manifest, dn_monotonic_us() + SNAP_PIN_US};
}

static struct manifest *find(struct group *g, const struct snap_name *name)
{
    /* Our own may be on the disk, and sent, before we are told that it is. */
    struct manifest *own = g->snap.state == SNAP_STORING ? g->snap.manifest : NULL;
    struct manifest *all[3 + SNAP_PINS] = {g->in_force, g->previous, own};
    for (unsigned i = 0; i < SNAP_PINS; i++) {
        all[3 + i] = g->pins[i].manifest;
    }
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i] != NULL && snap_name_equal(&all[i]->name, name)) {
            return all[i];
        }
    }
    return NULL;
}

/* ---- answers ---------------------------------------------------------------------------------------- */

/* What finds no room is forgotten: the other side asks again. */
static void refuse(struct dn_consensus *c, const struct asker *asker, uint64_t request, uint32_t group,
                   uint32_t chunk, enum dn_code code, const char *why)
{
    struct wire_frame frame = {.type = WIRE_CHUNK_GONE,
                               .request = request,
                               .group = group,
                               .chunk = chunk,
                               .code = code,
                               .message = why,
                               .message_length = strnlen(why, WIRE_MESSAGE_MAX)};
    if (link_is(c, asker)) {
        (void)link_send(c, asker->raft_id, &frame);
    }
}

static void send_chunk(struct dn_consensus *c, const struct serve_ask *ask, const uint8_t *bytes)
{
    uint32_t length = chunk_bytes(ask->manifest, ask->chunk);
    for (uint32_t at = 0; at < length;) {
        uint32_t part = length - at < WIRE_PIECE_MAX ? length - at : WIRE_PIECE_MAX;
        struct wire_frame frame = {.type = WIRE_CHUNK,
                                   .request = ask->request,
                                   .group = ask->group,
                                   .chunk = ask->chunk,
                                   .offset = at,
                                   .bytes = bytes + at,
                                   .length = part};
        if (!link_send(c, ask->asker.raft_id, &frame)) {
            return;
        }
        at += part;
    }
}

/* ---- asks ------------------------------------------------------------------------------------------- */

void serve_ask(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame)
{
    struct group *g = &c->groups[frame->group];
    int member = member_find(c, asker->raft_id);
    struct snap_name name = {frame->index, frame->term, frame->id};
    struct manifest *manifest = find(g, &name);
    if (manifest == NULL || frame->chunk >= manifest->chunk_count || member < 0) {
        refuse(c, asker, frame->request, frame->group, frame->chunk, DN_NOT_FOUND, "no such snapshot here");
        return;
    }
    struct serve *s = &c->serve[member];
    if (s->count == SERVE_QUEUE_MAX) {
        return; /* more than the window lets it ask for: leftovers of broken links go first, and it asks again
                 */
    }
    pin(g, manifest);
    s->asks[(s->first + s->count++) % SERVE_QUEUE_MAX] =
        (struct serve_ask){*asker, frame->request, frame->group, frame->chunk, manifest_ref(manifest)};
    consensus_kick(c);
}

static void read_work(uv_work_t *work)
{
    struct serve_job *job = container_of(work, struct serve_job, work);
    job->code = snapstore_read(&job->g->store, job->ask.manifest, job->ask.chunk, job->bytes, &job->error);
}

static void read_done(uv_work_t *work, int status)
{
    struct serve_job *job = container_of(work, struct serve_job, work);
    struct group *g = job->g;
    struct dn_consensus *c = g->c;
    DN_ASSERT(status == 0);
    job->serve->busy = false;
    c->serve_jobs--;
    g->pool_jobs--;
    if (job->code == DN_OK && link_is(c, &job->ask.asker)) {
        send_chunk(c, &job->ask, job->bytes);
        if (c->m_chunks_out != NULL) {
            dn_counter_add(c->m_chunks_out, 1);
        }
    } else if (job->code != DN_OK) {
        dn_err(COMPONENT, "group %u: a snapshot cannot be sent: %s", g->id, job->error.message);
        refuse(c, &job->ask.asker, job->ask.request, job->ask.group, job->ask.chunk,
               job->code == DN_NOT_FOUND ? DN_CORRUPT : job->code, job->error.message);
        g->damaged = g->damaged || job->ask.manifest == g->in_force;
    }
    manifest_unref(job->ask.manifest);
    free(job->bytes);
    free(job);
    consensus_kick(c);
}

static void read_start(struct dn_consensus *c, struct serve *s, const struct serve_ask *ask)
{
    struct serve_job *job = calloc(1, sizeof *job);
    uint8_t *bytes = malloc(chunk_bytes(ask->manifest, ask->chunk));
    if (job == NULL || bytes == NULL) {
        manifest_unref(ask->manifest); /* asked for again */
        free(job);
        free(bytes);
        return;
    }
    *job = (struct serve_job){.g = &c->groups[ask->group], .serve = s, .ask = *ask, .bytes = bytes};
    s->busy = true;
    c->serve_jobs++;
    job->g->pool_jobs++;
    int rv = uv_queue_work(&c->loop, &job->work, read_work, read_done);
    DN_ASSERT(rv == 0); /* fails only without a callback */
}

static void serve_one(struct dn_consensus *c, struct serve *s)
{
    while (s->count > 0 && !s->busy && bulk_room(c)) {
        struct serve_ask ask = s->asks[s->first];
        bool there = link_is(c, &ask.asker);
        if (there && link_bulk_queued(c, ask.asker.raft_id) >= SERVE_LINK_BYTES) {
            return;
        }
        s->first = (s->first + 1) % SERVE_QUEUE_MAX;
        s->count--;
        if (!there) {
            manifest_unref(ask.manifest);
        } else {
            read_start(c, s, &ask);
        }
    }
}

void serve_turn(struct dn_consensus *c)
{
    if (c->phase > PHASE_TRANSFER) {
        return;
    }
    /* Each in turn first, or two would keep the others waiting. */
    for (unsigned i = 0; i < DN_MEMBERS_MAX; i++) {
        serve_one(c, &c->serve[(c->serve_from + i) % DN_MEMBERS_MAX]);
    }
    c->serve_from = (c->serve_from + 1) % DN_MEMBERS_MAX;
}

void serve_forget(struct dn_consensus *c)
{
    for (unsigned i = 0; i < DN_MEMBERS_MAX; i++) {
        struct serve *s = &c->serve[i];
        for (; s->count > 0; s->count--, s->first = (s->first + 1) % SERVE_QUEUE_MAX) {
            manifest_unref(s->asks[s->first].manifest);
        }
    }
}
