/* dunlin-replay check: reads the acknowledged events, then every user's session at every node. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/text.h"
#include "client/client.h"
#include "client/progress.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "replay/audit.h"
#include "replay/feed.h"
#include "replay/replay.h"
#include "replay/sender.h"

#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 32 /* calls in flight */
#define HASH_SEED 0x6175646974u
#define RETRY_US 100000
#define EXAMPLES_MAX 10

struct noted {
    uint64_t user_hash, id_hash;
    char *user; /* the same pointer for all events of a user after gather_users */
    struct dn_audit_event event;
};

struct user {
    const char *id;
    size_t first, count; /* in `noted` */
};

struct check {
    char *addresses_text;
    const char *addresses[DN_SENDER_NODES_MAX];
    size_t address_count;
    const char *acked_path;
    size_t limit;
    unsigned give_up_ms, deadline_ms;
    bool json;
    struct noted *noted;
    size_t noted_count, noted_capacity;
    struct user *users;
    size_t user_count;
    struct dn_audit_event *scratch; /* one user's acknowledged events */
    unsigned examples;
    bool no_memory;
};

/* One call in flight, at one node. */
struct slot {
    struct node_check *node;
    bool busy, again;
    size_t user;
    uint64_t since_us, try_us;
};

struct node_check {
    struct check *check;
    const char *address;
    struct dn_client *client;
    struct slot slots[SLOTS];
    size_t next_user, done;
    struct dn_audit_result result;
    bool failed;
    struct dn_error why;
};

/* ---- options
 * ------------------------------------------------------------------------------------------------------ */

enum { KEY_NODES = 256, KEY_ACKED, KEY_LIMIT, KEY_GIVE_UP, KEY_TIMEOUT, KEY_JSON };

static const struct argp_option option_list[] = {
    {"nodes", KEY_NODES, "HOST:PORT,...", 0, "Nodes to read from, each", 0},
    {"acked", KEY_ACKED, "FILE", 0, "Acknowledged events, as `publish --acked` or `run --acked` wrote them",
     0},
    {"events-per-user", KEY_LIMIT, "N", 0,
     "The cluster's events_per_user: a session shows the newest N (default 50)", 0},
    {"give-up", KEY_GIVE_UP, "SECONDS", 0, "Stop when a read does not succeed for so long (default 30)", 0},
    {"timeout", KEY_TIMEOUT, "MS", 0, "Deadline of one read (default 5000)", 0},
    {"json", KEY_JSON, NULL, 0, "Print results as JSON", 0},
    {0},
};

static int64_t number(struct argp_state *state, const char *name, const char *text, int64_t min, int64_t max)
{
    int64_t value = min;

    if (!dn_parse_i64(text, min, max, &value))
        argp_error(state, "--%s must be a whole number from %lld to %lld, not '%s'", name, (long long)min,
                   (long long)max, text);
    return value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct check *check = state->input;

    switch (key) {
    case KEY_NODES:
        free(check->addresses_text);
        check->addresses_text = strdup(text);
        if (check->addresses_text == NULL)
            argp_failure(state, 1, ENOMEM, "--nodes");
        else
            check->address_count =
                dn_split_addresses(check->addresses_text, check->addresses, DN_SENDER_NODES_MAX);
        if (check->address_count == 0)
            argp_error(state, "--nodes needs 1 to %d addresses HOST:PORT with commas between",
                       DN_SENDER_NODES_MAX);
        break;
    case KEY_ACKED:
        check->acked_path = text;
        break;
    case KEY_LIMIT:
        check->limit = (size_t)number(state, "events-per-user", text, 2, 1000);
        break;
    case KEY_GIVE_UP:
        check->give_up_ms = 1000 * (unsigned)number(state, "give-up", text, 0, 86400);
        break;
    case KEY_TIMEOUT:
        check->deadline_ms = (unsigned)number(state, "timeout", text, 1, 600000);
        break;
    case KEY_JSON:
        check->json = true;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        break;
    case ARGP_KEY_END:
        if (check->address_count == 0 || check->acked_path == NULL)
            argp_error(state, "--nodes and --acked are needed");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- the acknowledged events
 * --------------------------------------------------------------------------------------- */

static uint64_t hash_text(const char *text)
{
    return dn_hash64(text, strlen(text), HASH_SEED);
}

static int event_type(int type)
{
    return type == 0 ? DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_VIEW : type;
}

static enum dn_code note(struct check *check, const struct dn_feed_event *event, struct dn_error *err)
{
    struct noted *noted;

    if (check->noted_count == check->noted_capacity) {
        size_t capacity = check->noted_capacity == 0 ? 4096 : check->noted_capacity * 2;
        struct noted *grown = realloc(check->noted, capacity * sizeof *grown);

        if (grown == NULL)
            return dn_fail(err, DN_NO_MEMORY, "out of memory after %zu events", check->noted_count);
        check->noted = grown;
        check->noted_capacity = capacity;
    }
    noted = &check->noted[check->noted_count];
    *noted = (struct noted){.user_hash = hash_text(event->key),
                            .id_hash = hash_text(event->event_id),
                            .user = strdup(event->key),
                            .event = {.time_ms = event->time_ms,
                                      .item = hash_text(event->item),
                                      .type = event_type(event->type)}};
    if (noted->user == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory after %zu events", check->noted_count);
    check->noted_count++;
    return DN_OK;
}

static int by_user_and_id(const void *left, const void *right)
{
    const struct noted *a = left, *b = right;

    if (a->user_hash != b->user_hash)
        return a->user_hash < b->user_hash ? -1 : 1;
    return (a->id_hash > b->id_hash) - (a->id_hash < b->id_hash);
}

/* Sorts by user, drops events noted twice (acknowledged again as duplicates), and lists the users. */
static enum dn_code gather_users(struct check *check, struct dn_error *err)
{
    size_t kept = 0, most = 0;

    if (check->noted_count == 0)
        return DN_OK;
    qsort(check->noted, check->noted_count, sizeof *check->noted, by_user_and_id);
    check->users = calloc(check->noted_count, sizeof *check->users);
    if (check->users == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory for %zu events", check->noted_count);
    for (size_t i = 0; i < check->noted_count; i++) {
        struct noted *noted = &check->noted[i];
        struct user *last = check->user_count == 0 ? NULL : &check->users[check->user_count - 1];
        bool same_user = last != NULL && noted->user_hash == check->noted[kept - 1].user_hash;

        if (same_user && noted->id_hash == check->noted[kept - 1].id_hash) {
            free(noted->user);
            continue;
        }
        if (same_user) {
            last->count++;
        } else {
            last = &check->users[check->user_count++];
            *last = (struct user){.id = noted->user, .first = kept, .count = 1};
        }
        most = last->count > most ? last->count : most;
        check->noted[kept++] = *noted;
    }
    check->noted_count = kept;
    check->scratch = calloc(most, sizeof *check->scratch);
    return check->scratch == NULL ? dn_fail(err, DN_NO_MEMORY, "out of memory") : DN_OK;
}

static enum dn_code read_acked(struct check *check, struct dn_error *err)
{
    struct dn_feed *feed;
    struct dn_feed_event event;
    enum dn_code code = dn_feed_open(check->acked_path, DN_FEED_JSONL, DN_FEED_KEY_USER, "", &feed, err);

    if (code != DN_OK)
        return code;
    while ((code = dn_feed_next(feed, &event, err)) == DN_OK)
        if ((code = note(check, &event, err)) != DN_OK)
            break;
    dn_feed_close(feed);
    return code == DN_NOT_FOUND ? gather_users(check, err) : code;
}

/* ---- one node
 * -------------------------------------------------------------------------------------------------------- */

static void compare_user(struct node_check *node, const struct user *user,
                         const Dunlin__V1__GetSessionResponse *response)
{
    struct check *check = node->check;
    struct dn_audit_result before = node->result;
    size_t count = response->found ? response->n_events : 0;
    struct dn_audit_event *shown = calloc(count + 1, sizeof *shown);

    if (shown == NULL) {
        check->no_memory = true;
        return;
    }
    for (size_t i = 0; i < count; i++)
        shown[i] = (struct dn_audit_event){.time_ms = response->events[i]->time_ms,
                                           .item = hash_text(response->events[i]->item_id),
                                           .type = event_type((int)response->events[i]->type)};
    for (size_t i = 0; i < user->count; i++)
        check->scratch[i] = check->noted[user->first + i].event;
    dn_audit_user(check->scratch, user->count, shown, count, check->limit, &node->result);
    free(shown);
    if ((node->result.missing > before.missing || node->result.repeated > before.repeated) &&
        check->examples++ < EXAMPLES_MAX)
        fprintf(stderr, "dunlin-replay: %s: user '%s': %llu missing, %llu repeated of %zu acknowledged\n",
                node->address, user->id, (unsigned long long)(node->result.missing - before.missing),
                (unsigned long long)(node->result.repeated - before.repeated), user->count);
}

static void node_failed(struct node_check *node, enum dn_code code, const char *why)
{
    if (!node->failed)
        dn_fail(&node->why, code, "%s: %s", node->address, why);
    node->failed = true;
}

static void on_session(void *data, const struct dn_reply *reply)
{
    struct slot *slot = data;
    struct node_check *node = slot->node;
    enum dn_code code = dn_client_code(reply->grpc_status);
    Dunlin__V1__GetSessionResponse *response = NULL;
    Dunlin__V1__GetSessionResponse none = DUNLIN__V1__GET_SESSION_RESPONSE__INIT;

    slot->busy = false;
    if (code == DN_INVALID || code == DN_UNIMPLEMENTED || code == DN_DENIED) {
        node_failed(node, code, reply->message);
        return;
    }
    if (code == DN_OK) {
        response = dunlin__v1__get_session_response__unpack(NULL, reply->length, reply->bytes);
        if (response == NULL) {
            node_failed(node, DN_INTERNAL, "the answer is not a GetSessionResponse");
            return;
        }
    } else if (code != DN_NOT_FOUND) {
        slot->again = true;
        slot->try_us = dn_monotonic_us() + RETRY_US;
        if (dn_monotonic_us() - slot->since_us > (uint64_t)node->check->give_up_ms * 1000)
            node_failed(node, code, reply->message);
        return;
    }
    compare_user(node, &node->check->users[slot->user], response != NULL ? response : &none);
    if (response != NULL)
        dunlin__v1__get_session_response__free_unpacked(response, NULL);
    node->done++;
}

static void send_slot(struct slot *slot)
{
    struct node_check *node = slot->node;
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    char user[DN_ID_MAX + 1];
    uint8_t bytes[DN_ID_MAX + 64];
    size_t length;

    snprintf(user, sizeof user, "%s", node->check->users[slot->user].id);
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE;
    request.user_id = user;
    request.read = &read;
    DN_ASSERT(dunlin__v1__get_session_request__get_packed_size(&request) <= sizeof bytes);
    length = dunlin__v1__get_session_request__pack(&request, bytes);
    slot->again = false;
    slot->busy = true;
    if (dn_client_send(node->client, "/dunlin.v1.Sessions/Get", bytes, length, node->check->deadline_ms,
                       on_session, slot, NULL) != DN_OK) {
        slot->busy = false;
        slot->again = true;
        slot->try_us = dn_monotonic_us() + RETRY_US;
    }
}

static void fill_slots(struct node_check *node)
{
    uint64_t now_us = dn_monotonic_us();

    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *slot = &node->slots[i];

        if (slot->busy || (slot->again && now_us < slot->try_us))
            continue;
        if (!slot->again) {
            if (node->next_user == node->check->user_count)
                continue;
            slot->user = node->next_user++;
            slot->since_us = now_us;
        }
        send_slot(slot);
    }
}

/* Connects, trying again until give_up_ms. */
static bool connect_node(struct node_check *node)
{
    uint64_t start_us = dn_monotonic_us();
    struct dn_error err;

    while (dn_client_connect(node->address, 2000, &node->client, &err) != DN_OK) {
        if (err.code == DN_INVALID ||
            dn_monotonic_us() - start_us > (uint64_t)node->check->give_up_ms * 1000) {
            node_failed(node, err.code, err.message);
            return false;
        }
        usleep(RETRY_US);
    }
    return true;
}

static void check_node(struct node_check *node)
{
    struct dn_progress progress;

    for (size_t i = 0; i < SLOTS; i++)
        node->slots[i].node = node;
    dn_progress_begin(&progress, node->address, node->check->user_count);
    while (!node->failed && node->done < node->check->user_count) {
        if (node->client == NULL && !connect_node(node))
            break;
        fill_slots(node);
        if (dn_client_poll(node->client, 50, NULL) != DN_OK) {
            dn_client_close(node->client);
            node->client = NULL;
        }
        dn_progress_update(&progress, node->done);
    }
    dn_progress_end(&progress);
    node->failed = true; /* completions from close change nothing */
    dn_client_close(node->client);
}

/* ---- results
 * ---------------------------------------------------------------------------------------------------------
 */

static void print_node(const struct check *check, const struct node_check *node, bool complete, json_t *list)
{
    const struct dn_audit_result *result = &node->result;

    if (check->json) {
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "node", node->address,
                            "complete", complete, "acked", (json_int_t)result->acked, "present",
                            (json_int_t)result->present, "missing", (json_int_t)result->missing, "repeated",
                            (json_int_t)result->repeated, "beyond", (json_int_t)result->beyond, "others",
                            (json_int_t)result->others, "error", complete ? "" : node->why.message));
        return;
    }
    printf("%-22s acked %llu  present %llu  missing %llu  repeated %llu  beyond the list %llu  others %llu\n",
           node->address, (unsigned long long)result->acked, (unsigned long long)result->present,
           (unsigned long long)result->missing, (unsigned long long)result->repeated,
           (unsigned long long)result->beyond, (unsigned long long)result->others);
    if (!complete)
        fprintf(stderr, "dunlin-replay: not complete: %s\n", node->why.message);
}

/* True when every node shows every event once. */
static bool check_all(struct check *check)
{
    json_t *list = json_array();
    bool good = true;

    for (size_t i = 0; i < check->address_count; i++) {
        struct node_check *node = calloc(1, sizeof *node);
        bool complete;

        if (node == NULL) {
            check->no_memory = true;
            break;
        }
        node->check = check;
        node->address = check->addresses[i];
        check_node(node);
        complete = node->done == check->user_count;
        good = good && complete && node->result.missing == 0 && node->result.repeated == 0;
        print_node(check, node, complete, list);
        free(node);
    }
    good = good && !check->no_memory;
    if (check->json) {
        json_t *object = json_pack("{s:b, s:I, s:I, s:o}", "ok", good, "users", (json_int_t)check->user_count,
                                   "acked", (json_int_t)check->noted_count, "nodes", list);
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
    } else {
        printf("%s: %zu acknowledged events of %zu users on %zu nodes\n",
               good ? "every event is present exactly once" : "NOT as acknowledged", check->noted_count,
               check->user_count, check->address_count);
        json_decref(list);
    }
    return good;
}

static void check_free(struct check *check)
{
    for (size_t i = 0; i < check->noted_count; i++)
        free(check->noted[i].user);
    free(check->noted);
    free(check->users);
    free(check->scratch);
    free(check->addresses_text);
}

int dn_replay_check(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .doc =
            "Reads the session of every user in the file of acknowledged events, at every node and as of now "
            "(LINEARIZABLE), and looks for events that are missing or there twice: by item, time and type. A "
            "node keeps the newest events of a user only: older ones count as beyond the list.\v"
            "Exit code 1 when one is missing or repeated, or a node could not be read to the end."};
    struct check check = {.limit = 50, .give_up_ms = 30000, .deadline_ms = 5000};
    struct dn_error err;
    bool good = false;

    argp_parse(&argp, argc, argv, 0, NULL, &check);
    if (read_acked(&check, &err) != DN_OK)
        fprintf(stderr, "dunlin-replay: %s\n", err.message);
    else
        good = check_all(&check);
    check_free(&check);
    return good ? DN_EXIT_OK : DN_EXIT_FAILURE;
}
