#include "replay/load.h"

#include "base/clock.h"
#include "base/text.h"
#include "client/names.h"
#include "client/progress.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define STEP_MS 20
#define OFFERS_PER_STEP 20000

static volatile sig_atomic_t stop_asked;

static void ask_stop(int number)
{
    (void)number;
    stop_asked = 1;
}

/* ---- options
 * -------------------------------------------------------------------------------------------------- */

enum {
    KEY_TO = 1000,
    KEY_EVENTS,
    KEY_FORMAT,
    KEY_USER_KEY,
    KEY_ID_PREFIX,
    KEY_BATCH,
    KEY_IN_FLIGHT,
    KEY_RATE,
    KEY_TIME,
    KEY_ACKED,
    KEY_GIVE_UP,
    KEY_TIMEOUT,
    KEY_JSON
};

static const struct argp_option options[] = {
    {"to", KEY_TO, "HOST:PORT,...", 0, "Nodes to send to (default 127.0.0.1:7070)", 0},
    {"events", KEY_EVENTS, "FILE", 0, "Events to read, gzip or plain; - is standard input", 0},
    {"format", KEY_FORMAT, "FORMAT", 0,
     "jsonl or tsv (ts user session item type price); default: by the first line", 0},
    {"key", KEY_USER_KEY, "KEY", 0, "What is the user: user (the session where it is empty) or session", 0},
    {"id-prefix", KEY_ID_PREFIX, "TEXT", 0, "Put before event ids made from line numbers", 0},
    {"batch", KEY_BATCH, "N", 0, "Most events in a request", 0},
    {"in-flight", KEY_IN_FLIGHT, "N", 0, "Most requests in flight; a user's events are never in two", 0},
    {"rate", KEY_RATE, "EVENTS", 0, "Events a second; default: as fast as they are taken", 0},
    {"time", KEY_TIME, "MODE", 0, "as-is (default), now, or shift (the first event becomes now)", 0},
    {"acked", KEY_ACKED, "FILE", 0, "Append each acknowledged event here, for `check`", 0},
    {"give-up", KEY_GIVE_UP, "SECONDS", 0, "Stop when an event is not taken for so long (default 30)", 0},
    {"timeout", KEY_TIMEOUT, "MS", 0, "Deadline of one request, then the next node (default 2000)", 0},
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

static int choice(struct argp_state *state, const char *name, const char *text, const char *const *names)
{
    for (int i = 0; names[i] != NULL; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    argp_error(state, "--%s does not know '%s'", name, text);
    return 0;
}

static void take_addresses(struct argp_state *state, struct dn_load *load, const char *text)
{
    free(load->addresses_text);
    load->addresses_text = strdup(text);
    if (load->addresses_text == NULL)
        argp_failure(state, 1, ENOMEM, "--to");
    else
        load->address_count = dn_split_addresses(load->addresses_text, load->addresses, DN_SENDER_NODES_MAX);
    for (size_t i = 0; i < load->address_count; i++) {
        char host[256];
        uint16_t port;

        if (!dn_parse_address(load->addresses[i], host, &port) || port == 0)
            argp_error(state, "--to: '%s' is not HOST:PORT", load->addresses[i]);
    }
    if (load->address_count == 0)
        argp_error(state, "--to needs 1 to %d addresses HOST:PORT with commas between", DN_SENDER_NODES_MAX);
}

static double rate(struct argp_state *state, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0.001 && value <= 1e8))
        argp_error(state, "--rate must be a number of events a second, not '%s'", text);
    return value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const formats[] = {"auto", "jsonl", "tsv", NULL};
    static const char *const keys[] = {"user", "session", NULL};
    static const char *const modes[] = {"as-is", "now", "shift", NULL};
    struct dn_load *load = state->input;

    switch (key) {
    case KEY_TO:
        take_addresses(state, load, text);
        break;
    case KEY_EVENTS:
        load->events = text;
        break;
    case KEY_FORMAT:
        load->format = (enum dn_feed_format)choice(state, "format", text, formats);
        break;
    case KEY_USER_KEY:
        load->key = (enum dn_feed_key)choice(state, "key", text, keys);
        break;
    case KEY_ID_PREFIX:
        load->id_prefix = text;
        break;
    case KEY_BATCH:
        load->batch = (size_t)number(state, "batch", text, 1, DN_SENDER_BATCH_MAX);
        break;
    case KEY_IN_FLIGHT:
        load->in_flight = (size_t)number(state, "in-flight", text, 1, DN_SENDER_LANES_MAX);
        break;
    case KEY_RATE:
        load->rate_events_per_s = rate(state, text);
        break;
    case KEY_TIME:
        load->time_mode = (enum dn_time_mode)choice(state, "time", text, modes);
        break;
    case KEY_ACKED:
        load->acked_path = text;
        break;
    case KEY_GIVE_UP:
        load->give_up_ms = 1000 * (unsigned)number(state, "give-up", text, 0, 86400);
        break;
    case KEY_TIMEOUT:
        load->deadline_ms = (unsigned)number(state, "timeout", text, 1, 600000);
        break;
    case KEY_JSON:
        load->json = true;
        break;
    case ARGP_KEY_END:
        if (load->events == NULL)
            argp_error(state, "--events FILE is missing (- is standard input)");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp dn_load_argp = {.options = options, .parser = parse};

void dn_load_default(struct dn_load *load)
{
    *load = (struct dn_load){.addresses = {"127.0.0.1:7070"},
                             .address_count = 1,
                             .id_prefix = "",
                             .batch = 500,
                             .in_flight = 8,
                             .give_up_ms = 30000,
                             .deadline_ms = 2000};
}

/* ---- acknowledged events
 * ----------------------------------------------------------------------------------------- */

enum dn_code dn_load_open_acked(struct dn_load *load, struct dn_error *err)
{
    if (load->acked_path == NULL)
        return DN_OK;
    load->acked = fopen(load->acked_path, "ae");
    if (load->acked == NULL)
        return dn_fail(err, DN_IO, "open '%s' for appending: %s", load->acked_path, strerror(errno));
    return DN_OK;
}

enum dn_code dn_load_close_acked(struct dn_load *load, enum dn_code code, struct dn_error *err)
{
    bool failed;

    if (load->acked == NULL)
        return code;
    failed = ferror(load->acked) != 0;
    failed = fclose(load->acked) != 0 || failed;
    load->acked = NULL;
    if (failed && code == DN_OK)
        return dn_fail(err, DN_IO, "write '%s': %s", load->acked_path, strerror(errno));
    return code;
}

void dn_load_note_outcome(struct dn_load *load, const struct dn_feed_event *event, int outcome)
{
    json_t *object;

    if (load->acked == NULL || outcome > 1) /* accepted, or accepted before */
        return;
    object = json_pack("{s:s, s:s, s:s, s:s, s:I}", "event_id", event->event_id, "user", event->key, "item",
                       event->item, "type", dn_event_type_name(event->type), "time_ms",
                       (json_int_t)event->time_ms);
    /* A failed write stays on the stream: dn_load_close_acked tells of it. */
    if (object != NULL)
        (void)json_dumpf(object, load->acked, JSON_COMPACT);
    fputc('\n', load->acked);
    json_decref(object);
}

/* ---- the loop
 * ------------------------------------------------------------------------------------------------------ */

struct pump {
    struct dn_load *load;
    struct dn_sender *sender;
    struct dn_feed *feed;
    struct dn_feed_event event;
    bool have_event, ended, ask;
    bool timed; /* event has its time: it may be offered more than once, and is shifted only once */
    uint64_t queued, start_us, due_us;
    int64_t shift_ms;
    bool shift_known;
};

static void set_time(struct pump *pump)
{
    struct dn_feed_event *event = &pump->event;

    if (pump->load->time_mode == DN_TIME_NOW || event->time_ms == 0) {
        /* A known time, also where the file has none: `check` compares it. */
        event->time_ms = dn_wall_ms();
    } else if (pump->load->time_mode == DN_TIME_SHIFT) {
        if (!pump->shift_known)
            pump->shift_ms = dn_wall_ms() - event->time_ms;
        pump->shift_known = true;
        event->time_ms += pump->shift_ms;
        if (event->time_ms < 1)
            event->time_ms = 1;
    }
}

/* Queues events until a lane is full, the next one is not due, or the input ends. */
static enum dn_code offer_some(struct pump *pump, bool (*wants_ask)(void *, const struct dn_feed_event *),
                               void *data, struct dn_error *err)
{
    double rate_per_s = pump->load->rate_events_per_s;

    for (int i = 0; i < OFFERS_PER_STEP && !pump->ended; i++) {
        if (!pump->have_event) {
            enum dn_code code = stop_asked ? DN_NOT_FOUND : dn_feed_next(pump->feed, &pump->event, err);

            if (code != DN_OK) {
                pump->ended = true;
                dn_sender_flush(pump->sender);
                return code == DN_NOT_FOUND ? DN_OK : code;
            }
            pump->have_event = true;
            pump->timed = false;
            pump->ask = wants_ask != NULL && wants_ask(data, &pump->event);
            pump->due_us =
                rate_per_s > 0 ? pump->start_us + (uint64_t)((double)pump->queued / rate_per_s * 1e6) : 0;
        }
        if (pump->due_us > dn_monotonic_us())
            return DN_OK;
        if (!pump->timed)
            set_time(pump);
        pump->timed = true;
        if (!dn_sender_offer(pump->sender, &pump->event, pump->ask, pump->due_us))
            return DN_OK;
        pump->have_event = false;
        pump->queued++;
    }
    return DN_OK;
}

static int wait_ms(const struct pump *pump)
{
    uint64_t now_us = dn_monotonic_us();

    if (!pump->have_event || pump->due_us == 0)
        return STEP_MS;
    if (pump->due_us <= now_us)
        return 1;
    return (pump->due_us - now_us) / 1000 < STEP_MS ? (int)((pump->due_us - now_us) / 1000) : STEP_MS;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_stop, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

enum dn_code dn_load_pump(struct dn_load *load, struct dn_sender *sender,
                          bool (*wants_ask)(void *data, const struct dn_feed_event *event), void *data,
                          uint64_t total, double *ret_seconds, struct dn_error *err)
{
    struct pump pump = {.load = load, .sender = sender, .start_us = dn_monotonic_us()};
    struct dn_progress progress;
    enum dn_code code = dn_feed_open(load->events, load->format, load->key, load->id_prefix, &pump.feed, err);

    if (code != DN_OK)
        return code;
    catch_signals();
    dn_progress_begin(&progress, "events", total);
    while (code == DN_OK && !(pump.ended && dn_sender_idle(sender))) {
        code = offer_some(&pump, wants_ask, data, err);
        if (code == DN_OK)
            code = dn_sender_step(sender, wait_ms(&pump), err);
        if (load->acked != NULL)
            fflush(load->acked);
        dn_progress_update(&progress, pump.queued);
    }
    dn_progress_end(&progress);
    dn_feed_close(pump.feed);
    *ret_seconds = (double)(dn_monotonic_us() - pump.start_us) / 1e6;
    return code;
}

/* ---- summary
 * ---------------------------------------------------------------------------------------------------------
 */

static double milliseconds(const struct dn_histogram *histogram, double q)
{
    return (double)dn_histogram_quantile_ns(histogram, q) / 1e6;
}

void dn_load_print_publish(const struct dn_sender *sender, double seconds)
{
    const struct dn_histogram *latency = dn_sender_publish_latency(sender);
    struct dn_sender_stats stats;

    dn_sender_stats(sender, &stats);
    printf("events      %llu in %.2f s, %.0f/s\n", (unsigned long long)stats.offered, seconds,
           seconds > 0 ? (double)stats.offered / seconds : 0);
    printf("outcomes   ");
    for (int i = 0; i < DN_OUTCOMES - 1; i++)
        if (stats.outcomes[i] > 0 || i == 0)
            printf(" %s %llu", dn_event_outcome_name(i), (unsigned long long)stats.outcomes[i]);
    printf("\nrequests    %llu, retries %llu\n", (unsigned long long)stats.requests,
           (unsigned long long)stats.retries);
    printf("publish ms  p50 %.3f  p99 %.3f  p999 %.3f  max %.3f\n", milliseconds(latency, 0.5),
           milliseconds(latency, 0.99), milliseconds(latency, 0.999),
           (double)dn_histogram_max_ns(latency) / 1e6);
}

void dn_load_json_publish(json_t *object, const struct dn_sender *sender, double seconds)
{
    const struct dn_histogram *latency = dn_sender_publish_latency(sender);
    struct dn_sender_stats stats;

    dn_sender_stats(sender, &stats);
    json_object_set_new(object, "events", json_integer((json_int_t)stats.offered));
    json_object_set_new(object, "seconds", json_real(seconds));
    json_object_set_new(object, "requests", json_integer((json_int_t)stats.requests));
    json_object_set_new(object, "retries", json_integer((json_int_t)stats.retries));
    for (int i = 0; i < DN_OUTCOMES - 1; i++)
        json_object_set_new(object, dn_event_outcome_name(i), json_integer((json_int_t)stats.outcomes[i]));
    json_object_set_new(object, "publish_ms_p50", json_real(milliseconds(latency, 0.5)));
    json_object_set_new(object, "publish_ms_p99", json_real(milliseconds(latency, 0.99)));
    json_object_set_new(object, "publish_ms_p999", json_real(milliseconds(latency, 0.999)));
    json_object_set_new(object, "publish_ms_max", json_real((double)dn_histogram_max_ns(latency) / 1e6));
}
