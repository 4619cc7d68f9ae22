/* bench_near [--events FILE] [--items N] [--sessions N] [--topics SHARE] [--cells N] [--visitors N] [--rounds
 * N]
 *            [--requests N]: what the tables of what is near an item cost (session/near.h), as one JSON
 * object.
 *
 * The same events are applied to a shard without tables and to one with them, in turn, so many rounds of it:
 * CPU per event of both, and memory. Then a reader asks for what a recommendation reads.
 *
 * FILE: "seconds, user, session, item" separated by tabs, a line each after a heading. Without it, so many
 * sessions over so many items are made up: lengths as Serenade saw them (p50 3, p90 10, p99 27), items by
 * Zipf's law, and that share of the clicks among the hundred neighbours of the session's topic. */
#include "base/clock.h"
#include "session/near.h"
#include "session/record.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECORD_EVENTS 100u
#define LIVE_SESSIONS 20000u /* made up, that go on at the same time */
#define TOPIC_ITEMS 100u
#define ROUNDS_MAX 16u
#define LENGTH_MAX 200u
#define SECOND_MS 1000
#define ROWS_READ 5u
#define ITEMS_READ 9u
#define SESSIONS_READ 200u
#define AROUND 20u
#define NAMED 300u
#define AHEAD_SLOT 16u /* steps between asking for a slot and reading */
#define AHEAD_BLOCK 8u

struct click {
    uint64_t user;
    uint32_t item; /* its number */
    int64_t time_ms;
};

struct session {
    uint64_t user;
    uint32_t topic, left;
};

struct bench {
    /* What is asked for. */
    const char *file;
    uint64_t items, sessions, rounds, requests;
    uint32_t cells, visitors;
    double topics;
    /* Names of items, in one text. */
    char *text;
    size_t text_length, text_capacity;
    struct {
        uint32_t offset;
        uint16_t length;
    } * names;
    uint32_t names_capacity;
    /* From the file. */
    struct click *clicks;
    size_t click_count, click_capacity;
    /* Made up. */
    double *zipf; /* cumulated */
    uint32_t *zipf_guide;
    uint32_t *shuffled;
    struct session live[LIVE_SESSIONS];
    uint64_t random, next_user;
    int64_t now_ms;
    /* The run. */
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_shard *shard;
    struct dn_buffer record, result;
    uint64_t index, events;
    size_t at;
};

static void die(const char *what)
{
    fprintf(stderr, "bench_near: %s\n", what);
    exit(1);
}

static void *must(void *memory)
{
    if (memory == NULL)
        die("out of memory");
    return memory;
}

static uint64_t next_random(struct bench *bench)
{
    uint64_t z = (bench->random += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double next_share(struct bench *bench)
{
    return (double)(next_random(bench) >> 11) / 9007199254740992.0;
}

static uint64_t cpu_ns(void)
{
    struct timespec at;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

/* ---- items -------------------------------------------------------------------------------------------- */

static void name_add(struct bench *bench, const char *name, size_t length)
{
    if (bench->items == bench->names_capacity) {
        bench->names_capacity = bench->names_capacity == 0 ? 4096 : 2 * bench->names_capacity;
        bench->names = must(realloc(bench->names, bench->names_capacity * sizeof *bench->names));
    }
    if (bench->text_length + length > bench->text_capacity) {
        bench->text_capacity = 2 * bench->text_capacity + length + 65536;
        bench->text = must(realloc(bench->text, bench->text_capacity));
    }
    memcpy(bench->text + bench->text_length, name, length);
    bench->names[bench->items].offset = (uint32_t)bench->text_length;
    bench->names[bench->items++].length = (uint16_t)length;
    bench->text_length += length;
}

/* ---- from a file ----------------------------------------------------------------------------------------
 */

struct known { /* open addressing: hash of a text -> its number + 1 */
    uint64_t *hashes;
    uint32_t *numbers;
    uint32_t mask, count;
};

static uint32_t number_of(struct known *known, const char *text, size_t length, bool *ret_new)
{
    uint64_t hash = dn_hash64(text, length, 0);
    uint32_t at = (uint32_t)hash & known->mask;

    while (known->numbers[at] != 0 && known->hashes[at] != hash)
        at = (at + 1) & known->mask;
    *ret_new = known->numbers[at] == 0;
    if (*ret_new) {
        if (2 * ++known->count > known->mask)
            die("the file names too many");
        known->hashes[at] = hash;
        known->numbers[at] = known->count;
    }
    return known->numbers[at] - 1;
}

static void known_make(struct known *known, uint32_t places)
{
    *known = (struct known){.mask = places - 1};
    known->hashes = must(calloc(places, sizeof *known->hashes));
    known->numbers = must(calloc(places, sizeof *known->numbers));
}

static void load(struct bench *bench)
{
    struct known items, sessions;
    char line[4096];
    FILE *in = strcmp(bench->file, "-") == 0 ? stdin : fopen(bench->file, "re");

    if (in == NULL)
        die("cannot open the events");
    known_make(&items, 1u << 22);
    known_make(&sessions, 1u << 24);
    bench->items = 0;
    while (fgets(line, sizeof line, in) != NULL) {
        char *field[4] = {0}, *rest = line;
        int fields = 0;
        while (fields < 4 && rest != NULL)
            field[fields++] = strsep(&rest, "\t\n");
        double seconds = field[3] != NULL ? strtod(field[0], NULL) : 0;
        if (seconds <= 0)
            continue; /* the heading */
        if (bench->click_count == bench->click_capacity) {
            bench->click_capacity = 2 * bench->click_capacity + 65536;
            bench->clicks = must(realloc(bench->clicks, bench->click_capacity * sizeof *bench->clicks));
        }
        bool fresh;
        struct click *click = &bench->clicks[bench->click_count++];
        const char *who = field[1][0] != 0 ? field[1] : field[2];
        click->user = number_of(&sessions, who, strlen(who), &fresh);
        click->item = number_of(&items, field[3], strlen(field[3]), &fresh);
        if (fresh)
            name_add(bench, field[3], strlen(field[3]));
        click->time_ms = (int64_t)(seconds * SECOND_MS);
    }
    if (bench->click_count == 0)
        die("the file has no clicks");
    bench->sessions = sessions.count;
    free(items.hashes);
    free(items.numbers);
    free(sessions.hashes);
    free(sessions.numbers);
    if (in != stdin)
        fclose(in);
}

/* ---- made up --------------------------------------------------------------------------------------------
 */

static void make_items(struct bench *bench)
{
    uint64_t count = bench->items;
    double sum = 0;

    bench->items = 0;
    bench->zipf = must(malloc(count * sizeof *bench->zipf));
    bench->zipf_guide = must(malloc((count + 1) * sizeof *bench->zipf_guide));
    bench->shuffled = must(malloc(count * sizeof *bench->shuffled));
    for (uint32_t i = 0; i < count; i++) {
        char name[32];
        int length = snprintf(name, sizeof name, "item-%07" PRIu32, i * 7919u % 10000000u);
        name_add(bench, name, (size_t)length);
        bench->zipf[i] = sum += 1 / (double)(i + 1);
        bench->shuffled[i] = i;
    }
    for (uint32_t i = 0, at = 0; i < count; i++) { /* where in the sums each share begins */
        bench->zipf[i] /= sum;
        while (at <= count && (double)at <= bench->zipf[i] * (double)count)
            bench->zipf_guide[at++] = i;
    }
    bench->zipf_guide[count] = (uint32_t)count - 1;
    for (uint64_t i = count;
         i-- > 1;) { /* which items make a topic has nothing to do with how popular they are */
        uint64_t with = next_random(bench) % (i + 1);
        uint32_t swap = bench->shuffled[i];
        bench->shuffled[i] = bench->shuffled[with];
        bench->shuffled[with] = swap;
    }
}

static uint32_t popular_item(struct bench *bench)
{
    double share = next_share(bench);
    uint32_t at = bench->zipf_guide[(uint64_t)(share * (double)bench->items)];

    while (at + 1 < bench->items && bench->zipf[at] < share)
        at++;
    return at;
}

/* p50 3, p90 10, p99 27: a logarithmic normal distribution does it. */
static uint32_t length_draw(struct bench *bench)
{
    double u = next_share(bench), v = next_share(bench);
    double normal = sqrt(-2 * log(u > 0 ? u : 1e-18)) * cos(6.283185307179586 * v);
    double length = exp(log(3.0) + 0.945 * normal);

    return length < 1 ? 1 : length > LENGTH_MAX ? LENGTH_MAX : (uint32_t)(length + 0.5);
}

static void session_begin(struct bench *bench, struct session *session)
{
    session->user = bench->next_user++;
    session->left = length_draw(bench);
    session->topic = popular_item(bench) % (uint32_t)((bench->items + TOPIC_ITEMS - 1) / TOPIC_ITEMS);
}

static uint32_t item_draw(struct bench *bench, const struct session *session)
{
    if (next_share(bench) >= bench->topics)
        return popular_item(bench);
    double u = next_share(bench); /* squared: some of them are more popular */
    uint64_t at = (uint64_t)session->topic * TOPIC_ITEMS + (uint64_t)(u * u * TOPIC_ITEMS);
    return bench->shuffled[at % bench->items];
}

static bool next_click(struct bench *bench, struct click *ret)
{
    if (bench->clicks != NULL) {
        if (bench->at == bench->click_count)
            return false;
        *ret = bench->clicks[bench->at++];
        return true;
    }
    if (bench->next_user >= bench->sessions + LIVE_SESSIONS)
        return false;
    struct session *session = &bench->live[next_random(bench) % LIVE_SESSIONS];
    *ret = (struct click){session->user, item_draw(bench, session), bench->now_ms};
    bench->now_ms += bench->at++ % 5 == 0;
    if (--session->left == 0)
        session_begin(bench, session);
    return true;
}

/* ---- applying -------------------------------------------------------------------------------------------
 */

static struct dn_hash128 user_of(uint64_t n)
{
    return (struct dn_hash128){.high = n * 0x9e3779b97f4a7c15u, .low = (n + 1) * 0xd6e8feb86659fd93u};
}

static uint64_t apply(struct bench *bench)
{
    dn_buffer_clear(&bench->result);
    uint64_t start_ns = cpu_ns();
    dn_shard_apply(bench->shard, bench->index, 0, bench->now_ms, bench->record.bytes, bench->record.length,
                   &bench->result);
    dn_shard_entry_done(bench->shard, bench->index++, bench->now_ms);
    uint64_t took_ns = cpu_ns() - start_ns;
    if (bench->record.failed || bench->result.bytes[0] != DN_RESULT_OK)
        die("a record was refused");
    return took_ns;
}

static void shard_open(struct bench *bench, bool near)
{
    struct dn_shard_settings settings;

    bench->epoch = must(dn_epoch_create());
    bench->reader = must(dn_epoch_register(bench->epoch));
    bench->shard = must(dn_shard_create(bench->epoch));
    bench->index = 1;
    bench->at = 0;
    bench->events = 0;
    dn_shard_settings_default(&settings);
    settings.users_max = 16000000;
    settings.near_cells = near ? bench->cells : 0;
    settings.near_visitors = bench->visitors;
    bench->random = 1;
    bench->next_user = 0;
    bench->now_ms = bench->clicks != NULL ? bench->clicks[0].time_ms : 1700000000000;
    for (size_t i = 0; bench->clicks == NULL && i < LIVE_SESSIONS; i++)
        session_begin(bench, &bench->live[i]);
    dn_buffer_clear(&bench->record);
    dn_record_settings(&bench->record, &settings);
    apply(bench);
}

static void shard_close(struct bench *bench)
{
    dn_shard_destroy(bench->shard);
    dn_epoch_unregister(bench->reader);
    dn_epoch_destroy(bench->epoch);
}

/* All events; nanoseconds of each. */
static double pass(struct bench *bench)
{
    static struct dn_event_in events[RECORD_EVENTS];
    struct click click;
    uint64_t took_ns = 0;

    for (bool more = true; more;) {
        size_t count = 0;
        while (count < RECORD_EVENTS && (more = next_click(bench, &click))) {
            bench->now_ms = click.time_ms > bench->now_ms ? click.time_ms : bench->now_ms;
            events[count++] = (struct dn_event_in){
                .user = user_of(click.user),
                .event_id = bench->events + count,
                .time_ms = click.time_ms,
                .weight = DN_WEIGHT_ONE,
                .type = DN_EVENT_CLICK,
                .item = bench->text + bench->names[click.item].offset,
                .item_length = bench->names[click.item].length,
            };
        }
        if (count == 0)
            break;
        dn_buffer_clear(&bench->record);
        dn_record_events(&bench->record, events, count);
        took_ns += apply(bench);
        bench->events += count;
    }
    return (double)took_ns / (double)bench->events;
}

/* ---- reading --------------------------------------------------------------------------------------------
 */

static uint32_t id_of(const struct bench *bench, uint32_t item)
{
    const char *name = bench->text + bench->names[item].offset;
    uint16_t length = bench->names[item].length;

    return dn_near_find(bench->shard, dn_hash64(name, length, 0), name, length);
}

static uint32_t asked_item(struct bench *bench)
{
    return bench->clicks != NULL ? bench->clicks[next_random(bench) % bench->click_count].item
                                 : popular_item(bench);
}

/* What a recommendation reads: rows of the newest items, visitors of some more, sessions of those, and what
 * is known of the items that are left. Returns something that depends on all of it. */
static float read_request(struct bench *bench, uint64_t ret_ns[4])
{
    static struct dn_near_cell cells[ROWS_READ][DN_NEAR_CELLS_MAX];
    static uint32_t users[ITEMS_READ][DN_NEAR_VISITORS_MAX];
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;
    struct dn_near_item item;
    struct dn_near_row row;
    uint32_t ids[ITEMS_READ];
    uint32_t who[SESSIONS_READ], of[SESSIONS_READ], what[NAMED];
    size_t counts[ITEMS_READ], cell_count[ROWS_READ], asked = 0, named = 0;
    float sum = 0;

    for (size_t i = 0; i < ITEMS_READ; i++)
        ids[i] = id_of(bench, asked_item(bench));
    uint64_t at_ns = cpu_ns();
    for (size_t i = 0; i < ROWS_READ; i++) {
        dn_near_row(bench->shard, ids[i], cells[i], DN_NEAR_CELLS_MAX, &row);
        cell_count[i] = row.count;
        sum += row.near_sum;
        for (size_t n = 0; n < row.count; n++)
            sum += cells[i][n].near;
    }
    uint64_t rows_ns = cpu_ns();
    for (size_t i = 0; i < ITEMS_READ; i++)
        counts[i] = dn_near_visitors(bench->shard, ids[i], users[i], DN_NEAR_VISITORS_MAX);
    uint64_t visitors_ns = cpu_ns();
    for (size_t n = 0; n < DN_NEAR_VISITORS_MAX && asked < SESSIONS_READ; n++)
        for (size_t i = 0; i < ITEMS_READ && asked < SESSIONS_READ; i++)
            if (n < counts[i]) {
                who[asked] = users[i][n];
                of[asked++] = ids[i];
            }
    for (size_t n = 0; n < asked + AHEAD_SLOT; n++) {
        if (n < asked)
            dn_near_prefetch_user(bench->shard, who[n], false);
        if (n >= AHEAD_BLOCK && n - AHEAD_BLOCK < asked)
            dn_near_prefetch_user(bench->shard, who[n - AHEAD_BLOCK], true);
        if (n >= AHEAD_SLOT &&
            dn_near_session(bench->shard, who[n - AHEAD_SLOT], of[n - AHEAD_SLOT], AROUND, visits, &session))
            sum += (float)visits[session.count - 1].id;
    }
    uint64_t sessions_ns = cpu_ns();
    for (size_t n = 0; n < DN_NEAR_CELLS_MAX && named < NAMED; n++)
        for (size_t i = 0; i < ROWS_READ && named < NAMED; i++)
            if (n < cell_count[i])
                what[named++] = cells[i][n].id;
    for (size_t n = 0; n < named + AHEAD_SLOT; n++) {
        if (n < named)
            dn_near_prefetch_item(bench->shard, what[n], false);
        if (n >= AHEAD_BLOCK && n - AHEAD_BLOCK < named)
            dn_near_prefetch_item(bench->shard, what[n - AHEAD_BLOCK], true);
        if (n >= AHEAD_SLOT && dn_near_item(bench->shard, what[n - AHEAD_SLOT], &item))
            sum += item.recent + (float)(item.hash & 1);
    }
    uint64_t named_ns = cpu_ns();
    ret_ns[0] = rows_ns - at_ns;
    ret_ns[1] = visitors_ns - rows_ns;
    ret_ns[2] = sessions_ns - visitors_ns;
    ret_ns[3] = named_ns - sessions_ns;
    return sum;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void read_all(struct bench *bench)
{
    uint64_t *took_ns = must(calloc(bench->requests, sizeof *took_ns)), parts[4] = {0}, one[4];
    volatile float sum = 0;

    for (uint64_t i = 0; i < bench->requests; i++) {
        dn_epoch_enter(bench->reader);
        sum += read_request(bench, one);
        dn_epoch_leave(bench->reader);
        for (size_t part = 0; part < 4; part++) {
            parts[part] += one[part];
            took_ns[i] += one[part];
        }
    }
    qsort(took_ns, bench->requests, sizeof *took_ns, by_value);
    printf(", \"request_us\": {\"p50\": %.1f, \"p99\": %.1f, \"rows\": %.1f, \"visitors\": %.1f, "
           "\"sessions\": %.1f, \"items\": %.1f}",
           (double)took_ns[bench->requests / 2] / 1e3, (double)took_ns[bench->requests * 99 / 100] / 1e3,
           (double)parts[0] / 1e3 / (double)bench->requests, (double)parts[1] / 1e3 / (double)bench->requests,
           (double)parts[2] / 1e3 / (double)bench->requests,
           (double)parts[3] / 1e3 / (double)bench->requests);
    free(took_ns);
}

/* ---- all of it ------------------------------------------------------------------------------------------
 */

static void run(struct bench *bench)
{
    double ns[2][ROUNDS_MAX];
    struct dn_shard_stats stats[2];

    for (uint64_t round = 0; round < bench->rounds; round++)
        for (int near = 0; near < 2; near++) {
            shard_open(bench, near == 1);
            ns[near][round] = pass(bench);
            dn_shard_stats(bench->shard, &stats[near]);
            fprintf(stderr, "  %s: %.0f ns an event, %" PRIu64 " events\n", near ? "with tables" : "without",
                    ns[near][round], bench->events);
            if (near == 1 && round + 1 == bench->rounds)
                break;
            shard_close(bench);
        }
    for (int near = 0; near < 2; near++)
        qsort(ns[near], bench->rounds, sizeof **ns, by_size);
    const struct dn_shard_stats *with = &stats[1];
    double without_ns = ns[0][bench->rounds / 2], with_ns = ns[1][bench->rounds / 2];
    double events = (double)with->events_applied;
    printf("{\"events\": %.0f, \"sessions\": %" PRIu64 ", \"items\": %" PRIu64, events, with->users,
           with->items);
    printf(", \"without_ns\": %.0f, \"with_ns\": %.0f, \"tables_ns\": %.0f", without_ns, with_ns,
           with_ns - without_ns);
    printf(", \"rows\": %" PRIu64 ", \"pairs\": %" PRIu64 ", \"visitors\": %" PRIu64 ", \"bytes\": %" PRIu64,
           with->near_rows, with->near_pairs, with->near_visits, with->near_bytes);
    printf(", \"bytes_an_event\": %.2f, \"memory_more\": %.0f", (double)with->near_bytes / events,
           (double)with->memory_bytes - (double)stats[0].memory_bytes);
    if (bench->requests > 0)
        read_all(bench);
    printf("}\n");
    shard_close(bench);
}

static double number(const char *text, double min, double max)
{
    char *end;
    double value = text != NULL ? strtod(text, &end) : min - 1;

    if (text == NULL || *end != 0 || !(value >= min && value <= max))
        die("an option without its number, or one out of range");
    return value;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.items = 500000,
                                 .sessions = 1000000,
                                 .topics = 0.7,
                                 .cells = 120, /* dn_shard_settings_default */
                                 .visitors = 64,
                                 .rounds = 3,
                                 .requests = 2000};

    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--events") == 0 && value != NULL)
            bench.file = value;
        else if (strcmp(argv[i], "--items") == 0)
            bench.items = (uint64_t)number(value, TOPIC_ITEMS, 4e6);
        else if (strcmp(argv[i], "--sessions") == 0)
            bench.sessions = (uint64_t)number(value, 1, 15e6);
        else if (strcmp(argv[i], "--topics") == 0)
            bench.topics = number(value, 0, 1);
        else if (strcmp(argv[i], "--cells") == 0)
            bench.cells = (uint32_t)number(value, 1, DN_NEAR_CELLS_MAX);
        else if (strcmp(argv[i], "--visitors") == 0)
            bench.visitors = (uint32_t)number(value, 1, DN_NEAR_VISITORS_MAX);
        else if (strcmp(argv[i], "--rounds") == 0)
            bench.rounds = (uint64_t)number(value, 1, ROUNDS_MAX);
        else if (strcmp(argv[i], "--requests") == 0)
            bench.requests = (uint64_t)number(value, 0, 1e7);
        else
            die("unknown option; see the head of tests/bench/bench_near.c");
    }
    dn_buffer_init(&bench.record, 4u << 20);
    dn_buffer_init(&bench.result, 1u << 20);
    if (bench.file != NULL)
        load(&bench);
    else
        make_items(&bench);
    run(&bench);
    return 0;
}
