/* dunlin catalog load: batches of items, several in flight; one that fails for a passing reason is sent again
 * (an upsert done twice is an upsert done once). */
#include "node/cli.h"

#include "base/arena.h"
#include "base/clock.h"
#include "client/progress.h"
#include "index/index.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH_ITEMS 500
#define BATCH_BYTES (1u << 20) /* roughly: the server takes 4 MiB */
#define ARENA_BYTES (64u << 20)
#define IN_FLIGHT 4
#define GIVE_UP_US 30000000u
#define RETRY_US 50000
#define DELETE_MAX 1000

struct slot {
    struct load *load;
    bool busy, again;
    uint8_t *bytes;
    size_t length, items;
    uint64_t since_us;
};

struct load {
    struct dn_cli *cli;
    struct dn_arena *arena; /* the batch being filled */
    Dunlin__V1__Item *items[BATCH_ITEMS];
    size_t count, batch_bytes;
    struct slot slots[IN_FLIGHT];
    uint64_t read, stored;
    struct dn_progress progress;
    bool failed;
    struct dn_error why;
};

/* ---- filling a batch
 * --------------------------------------------------------------------------------------------------- */

static Dunlin__V1__Item *copy_item(struct dn_arena *arena, const struct dn_item *item)
{
    Dunlin__V1__Item *copy = dn_arena_alloc(arena, sizeof *copy);
    Dunlin__V1__Attribute *attributes = dn_arena_alloc(arena, sizeof *attributes * item->attribute_count);
    Dunlin__V1__Attribute **pointers = dn_arena_alloc(arena, sizeof *pointers * item->attribute_count);

    if (copy == NULL || attributes == NULL || pointers == NULL)
        return NULL;
    dunlin__v1__item__init(copy);
    copy->id = dn_arena_strndup(arena, item->id, item->id_length);
    copy->category =
        dn_arena_strndup(arena, item->category == NULL ? "" : item->category, item->category_length);
    if (item->vector != NULL) {
        copy->vector = dn_arena_memdup(arena, item->vector, sizeof(float) * item->dim);
        copy->n_vector = item->dim;
    }
    copy->has_price = !isnan(item->price);
    copy->price = copy->has_price ? item->price : 0;
    copy->unavailable = !item->available;
    copy->attributes = pointers;
    copy->n_attributes = item->attribute_count;
    for (size_t i = 0; i < item->attribute_count; i++) {
        const struct dn_attribute *attribute = &item->attributes[i];

        dunlin__v1__attribute__init(&attributes[i]);
        attributes[i].key = dn_arena_strndup(arena, attribute->key, attribute->key_length);
        attributes[i].value = dn_arena_strndup(arena, attribute->value, attribute->value_length);
        pointers[i] = &attributes[i];
        if (attributes[i].key == NULL || attributes[i].value == NULL)
            return NULL;
    }
    return copy->id == NULL || copy->category == NULL || (item->vector != NULL && copy->vector == NULL)
               ? NULL
               : copy;
}

/* ---- sending
 * -------------------------------------------------------------------------------------------------------------
 */

static void fail(struct load *load, enum dn_code code, const char *why)
{
    if (!load->failed)
        dn_fail(&load->why, code, "%s", why);
    load->failed = true;
}

static bool passing(enum dn_code code)
{
    return code == DN_UNAVAILABLE || code == DN_DEADLINE || code == DN_EXHAUSTED || code == DN_ABORTED ||
           code == DN_CANCELLED;
}

static void on_stored(void *data, const struct dn_reply *reply)
{
    struct slot *slot = data;
    struct load *load = slot->load;
    enum dn_code code = dn_client_code(reply->grpc_status);

    slot->busy = false;
    if (code == DN_OK) {
        load->stored += slot->items;
        free(slot->bytes);
        slot->bytes = NULL;
        dn_progress_update(&load->progress, load->stored);
    } else if (passing(code) && dn_monotonic_us() - slot->since_us < GIVE_UP_US) {
        slot->again = true;
    } else {
        fail(load, code, reply->message);
    }
}

static void send_slot(struct slot *slot)
{
    struct load *load = slot->load;
    struct dn_error err;
    enum dn_code code;

    slot->again = false;
    slot->busy = true;
    code = dn_client_send(load->cli->client, "/dunlin.v1.Catalog/Upsert", slot->bytes, slot->length,
                          load->cli->timeout_ms, on_stored, slot, &err);
    if (code == DN_OK)
        return;
    slot->busy = false;
    if (code == DN_UNAVAILABLE)
        slot->again = true;
    else
        fail(load, code, err.message);
}

/* Moves bytes; connects again when the connection is lost, and sends again what must be. */
static void turn(struct load *load)
{
    bool again = false;

    if (load->cli->client == NULL || dn_client_poll(load->cli->client, 20, NULL) != DN_OK) {
        dn_client_close(load->cli->client);
        load->cli->client = NULL;
        usleep(RETRY_US);
        if (dn_client_connect(load->cli->server, 1000, &load->cli->client, NULL) != DN_OK)
            load->cli->client = NULL;
    }
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        struct slot *slot = &load->slots[i];

        if (!slot->again || load->failed)
            continue;
        again = true;
        if (dn_monotonic_us() - slot->since_us > GIVE_UP_US)
            fail(load, DN_UNAVAILABLE, "no node took the items for 30 s");
        else if (load->cli->client != NULL)
            send_slot(slot);
    }
    if (again)
        usleep(RETRY_US);
}

static struct slot *free_slot(struct load *load)
{
    for (;;) {
        for (size_t i = 0; i < IN_FLIGHT; i++)
            if (load->slots[i].bytes == NULL)
                return &load->slots[i];
        if (load->failed)
            return NULL;
        turn(load);
    }
}

static void send_batch(struct load *load)
{
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    struct slot *slot = free_slot(load);

    if (slot == NULL || load->count == 0)
        return;
    request.items = load->items;
    request.n_items = load->count;
    slot->load = load;
    slot->items = load->count;
    slot->length = dunlin__v1__upsert_items_request__get_packed_size(&request);
    slot->bytes = malloc(slot->length + 1);
    if (slot->bytes == NULL) {
        fail(load, DN_NO_MEMORY, "");
        return;
    }
    dunlin__v1__upsert_items_request__pack(&request, slot->bytes);
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): load_file frees the bytes of every slot */
    slot->since_us = dn_monotonic_us();
    if (load->cli->client == NULL)
        slot->again = true;
    else
        send_slot(slot);
    load->count = 0;
    load->batch_bytes = 0;
    dn_arena_reset(load->arena);
    if (load->cli->client != NULL)
        (void)dn_client_poll(load->cli->client, 0, NULL);
}

static enum dn_code on_item(void *data, const struct dn_item *item, struct dn_error *err)
{
    struct load *load = data;
    Dunlin__V1__Item *copy = copy_item(load->arena, item);

    if (copy == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    load->items[load->count++] = copy;
    load->batch_bytes += dunlin__v1__item__get_packed_size(copy);
    load->read++;
    if (load->count == BATCH_ITEMS || load->batch_bytes >= BATCH_BYTES)
        send_batch(load);
    return load->failed ? dn_fail(err, load->why.code, "%s", load->why.message) : DN_OK;
}

static bool all_stored(const struct load *load)
{
    for (size_t i = 0; i < IN_FLIGHT; i++)
        if (load->slots[i].bytes != NULL)
            return false;
    return true;
}

static int load_file(struct dn_cli *cli, const char *path, const char *ids_path)
{
    struct load load = {.cli = cli};
    struct dn_error err = {0};
    enum dn_code code;
    int exit_code = dn_cli_connect(cli);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    load.arena = dn_arena_create(1 << 20, ARENA_BYTES);
    if (load.arena == NULL)
        return dn_cli_complain(cli, "catalog load", DN_NO_MEMORY, "");
    dn_progress_begin(&load.progress, "items", 0);
    code = dn_items_read(path, ids_path, on_item, &load, &err);
    if (code == DN_OK)
        send_batch(&load);
    /* What was read before an error is stored all the same, and counted. */
    while (!load.failed && !all_stored(&load))
        turn(&load);
    dn_progress_end(&load.progress);
    if (code == DN_OK && load.failed)
        code = dn_fail(&err, load.why.code, "%s", load.why.message);
    /* Completes what is in flight while the slots still live. */
    dn_client_close(cli->client);
    cli->client = NULL;
    for (size_t i = 0; i < IN_FLIGHT; i++)
        free(load.slots[i].bytes);
    dn_arena_destroy(load.arena);
    if (cli->json)
        dn_cli_print_json(
            json_pack("{s:I, s:I}", "read", (json_int_t)load.read, "stored", (json_int_t)load.stored));
    else
        printf("%llu items stored\n", (unsigned long long)load.stored);
    return code == DN_OK ? DN_CLI_OK : dn_cli_complain(cli, "catalog load", code, err.message);
}

/* ---- get and delete
 * -------------------------------------------------------------------------------------------------------- */

static json_t *item_json(const Dunlin__V1__GetItemResponse *response)
{
    const Dunlin__V1__Item *item = response->item;
    json_t *attributes = json_object(), *vector = json_array(), *object;

    for (size_t i = 0; i < item->n_attributes; i++)
        json_object_set_new(attributes, item->attributes[i]->key, json_string(item->attributes[i]->value));
    for (size_t i = 0; i < item->n_vector; i++)
        json_array_append_new(vector, json_real((double)item->vector[i]));
    object =
        json_pack("{s:s, s:s, s:b, s:o, s:o, s:I, s:o}", "id", item->id, "category", item->category,
                  "available", item->unavailable == 0, "attributes", attributes, "vector", vector, "version",
                  (json_int_t)response->version, "freshness", dn_cli_json_freshness(response->freshness));
    if (item->has_price && object != NULL)
        json_object_set_new(object, "price", json_real(item->price));
    return object;
}

static void item_text(const Dunlin__V1__GetItemResponse *response)
{
    const Dunlin__V1__Item *item = response->item;

    printf("id         %s\ncategory   %s\n", dn_cli_clean(item->id), dn_cli_clean(item->category));
    if (item->has_price)
        printf("price      %.2f\n", item->price);
    printf("available  %s\nversion    %llu\n", item->unavailable ? "no" : "yes",
           (unsigned long long)response->version);
    for (size_t i = 0; i < item->n_attributes; i++)
        printf("%-10s %s\n", dn_cli_clean(item->attributes[i]->key),
               dn_cli_clean(item->attributes[i]->value));
    if (item->n_vector > 0) {
        fputs("vector    ", stdout);
        for (size_t i = 0; i < item->n_vector; i++)
            printf(" %g", (double)item->vector[i]);
        putchar('\n');
    }
    dn_cli_print_freshness(response->freshness);
}

static int get_item(struct dn_cli *cli, const char *id, Dunlin__V1__ReadOptions *read, bool vector)
{
    Dunlin__V1__GetItemRequest request = DUNLIN__V1__GET_ITEM_REQUEST__INIT;
    const Dunlin__V1__GetItemResponse *response;
    ProtobufCMessage *answer;
    int exit_code;

    request.id = (char *)(uintptr_t)id;
    request.read = read;
    request.include_vector = vector;
    exit_code = dn_cli_call(cli, "/dunlin.v1.Catalog/Get", &request.base,
                            &dunlin__v1__get_item_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    response = (const Dunlin__V1__GetItemResponse *)answer;
    if (response->item == NULL)
        exit_code = dn_cli_complain(cli, "catalog get", DN_INTERNAL, "the answer has no item");
    else if (cli->json)
        dn_cli_print_json(item_json(response));
    else
        item_text(response);
    protobuf_c_message_free_unpacked(answer, NULL);
    return exit_code;
}

static int delete_items(struct dn_cli *cli, char **ids, size_t count)
{
    Dunlin__V1__DeleteItemsRequest request = DUNLIN__V1__DELETE_ITEMS_REQUEST__INIT;
    const Dunlin__V1__DeleteItemsResponse *response;
    ProtobufCMessage *answer;
    int exit_code;

    request.ids = ids;
    request.n_ids = count;
    exit_code = dn_cli_call(cli, "/dunlin.v1.Catalog/Delete", &request.base,
                            &dunlin__v1__delete_items_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    response = (const Dunlin__V1__DeleteItemsResponse *)answer;
    if (cli->json)
        dn_cli_print_json(json_pack("{s:I}", "deleted", (json_int_t)response->deleted));
    else
        printf("%u of %zu items deleted\n", response->deleted, count);
    protobuf_c_message_free_unpacked(answer, NULL);
    return DN_CLI_OK;
}

/* ---- arguments
 * -------------------------------------------------------------------------------------------------------------
 */

struct arguments {
    struct dn_cli *cli;
    struct dn_cli_read read;
    const char *ids_path;
    bool vector;
    const char *action;
    char *ids[DELETE_MAX];
    size_t count;
};

enum { KEY_IDS = 256, KEY_VECTOR };

static const struct argp_option option_list[] = {
    {"ids", KEY_IDS, "FILE", 0, "load: ids of the rows of an .npy file, one a line", 10},
    {"vector", KEY_VECTOR, NULL, 0, "get: show the vector too", 10},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        state->child_inputs[1] = &arguments->read;
        break;
    case KEY_IDS:
        arguments->ids_path = text;
        break;
    case KEY_VECTOR:
        arguments->vector = true;
        break;
    case ARGP_KEY_ARG:
        if (arguments->action == NULL) {
            if (strcmp(text, "load") != 0 && strcmp(text, "get") != 0 && strcmp(text, "delete") != 0)
                argp_error(state, "unknown action '%s': use load, get or delete", text);
            arguments->action = text;
            break;
        }
        if (arguments->count == DELETE_MAX)
            argp_error(state, "at most %d ids at once", DELETE_MAX);
        else
            arguments->ids[arguments->count++] = text;
        if (arguments->count > 1 && strcmp(arguments->action, "delete") != 0)
            argp_error(state, "unexpected argument '%s'", text);
        break;
    case ARGP_KEY_END:
        if (arguments->action == NULL || arguments->count == 0)
            argp_error(state, "expected load FILE, get ID, or delete ID...");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int dn_cli_catalog(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {
        {&dn_cli_argp, 0, NULL, 0}, {&dn_cli_read_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "load FILE\nget ID\ndelete ID...",
        .children = children,
        .doc = "Loads items from a file (.jsonl, .npy with --ids, .vec), shows one, or deletes some."};
    struct arguments arguments = {.cli = cli};

    dn_cli_read_init(&arguments.read);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    if (strcmp(arguments.action, "load") == 0)
        return load_file(cli, arguments.ids[0], arguments.ids_path);
    if (strcmp(arguments.action, "get") == 0)
        return get_item(cli, arguments.ids[0], &arguments.read.options, arguments.vector);
    return delete_items(cli, arguments.ids, arguments.count);
}
