#include "node/cli.h"

#include "recommend/recommend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX 10000 /* ids in --items or --exclude */

struct id_list {
    char *text;
    char **ids;
    size_t count;
};

struct boost {
    Dunlin__V1__Boost boost; /* points into filter */
    struct dn_cli_filter filter;
};

struct arguments {
    struct dn_cli *cli;
    struct dn_cli_read read;
    struct dn_cli_filter filter;
    struct id_list items, exclude;
    const char *subject; /* user or item */
    uint32_t k;
    bool include_seen;
    bool wants_subject;
    /* recommend only */
    struct boost boosts[DN_BOOSTS_MAX];
    Dunlin__V1__Boost *boost_pointers[DN_BOOSTS_MAX];
    size_t boost_count;
    Dunlin__V1__Pin pins[DN_PINS_MAX];
    Dunlin__V1__Pin *pin_pointers[DN_PINS_MAX];
    size_t pin_count;
    float diversity;
    uint32_t category_cap;
    bool exclude_purchased, do_not_record;
    const char *anchor, *variant;
    /* trending only */
    Dunlin__V1__PopularityWindow window;
};

enum {
    KEY_SEEN = 256,
    KEY_ITEMS,
    KEY_EXCLUDE,
    KEY_PURCHASED,
    KEY_DIVERSITY,
    KEY_CAP,
    KEY_BOOST,
    KEY_PIN,
    KEY_ANCHOR,
    KEY_VARIANT,
    KEY_PRIVATE,
    KEY_WINDOW,
};

#define OPTION_K                                                                                             \
    {                                                                                                        \
        "k", 'k', "N", 0, "How many items (default 20, at most 1000)", 10                                    \
    }

static const struct argp_option list_options[] = {OPTION_K, {0}};
static const struct argp_option trending_options[] = {
    OPTION_K,
    {"window", KEY_WINDOW, "WINDOW", 0,
     "Events of when: trend (default; weights halve as session.trend_half_life_s says), hour, day or week "
     "(weights halve in that time), or ever",
     10},
    {0},
};
static const struct argp_option recommend_options[] = {
    OPTION_K,
    {"include-seen", KEY_SEEN, NULL, 0, "Also items of the user's recent events", 10},
    {"items", KEY_ITEMS, "A,B,...", 0, "Instead of a user: an anonymous session of these items, oldest first",
     10},
    {"exclude", KEY_EXCLUDE, "A,B,...", 0, "Items never to return", 10},
    {"exclude-purchased", KEY_PURCHASED, NULL, 0, "No items that the user bought, also with --include-seen",
     10},
    {"anchor", KEY_ANCHOR, "ITEM", 0, "What goes with this item, for this user", 10},
    {"diversity", KEY_DIVERSITY, "0..1", 0,
     "How much what is unlike the items before it comes first (default 0)", 10},
    {"category-cap", KEY_CAP, "N", 0, "At most N items of one category", 10},
    {"boost", KEY_BOOST, "CHANGE:FILTER", 0,
     "Change the score of items that match: x2, x0.5, +1 or -1; 'x2:brand = dune'. May be given often", 10},
    {"pin", KEY_PIN, "PLACE:ITEM", 0,
     "Put an item at that place (from 1), if it is available and passes the "
     "filter. May be given often",
     10},
    {"variant", KEY_VARIANT, "NAME", 0, "Of the node's experiment, instead of the user's own; - for none",
     10},
    {"do-not-record", KEY_PRIVATE, NULL, 0, "Nothing about this request is kept", 10},
    {0},
};

static void split(struct argp_state *state, const char *name, const char *text, struct id_list *list)
{
    size_t count = 1;
    char *rest;

    for (const char *comma = text; (comma = strchr(comma, ',')) != NULL; comma++)
        count++;
    if (count > LIST_MAX)
        argp_error(state, "--%s has more than %d ids", name, LIST_MAX);
    free(list->text);
    free(list->ids);
    list->count = 0;
    list->text = rest = strdup(text);
    list->ids = calloc(count, sizeof(char *));
    if (list->text == NULL || list->ids == NULL)
        argp_failure(state, DN_CLI_FAILED, 0, "out of memory");
    else
        while (rest != NULL)
            list->ids[list->count++] = strsep(&rest, ",");
}

static Dunlin__V1__PopularityWindow window_of(struct argp_state *state, const char *text)
{
    static const char *const WINDOWS[] = {"trend", "hour", "day", "week",
                                          "ever"}; /* as the enum counts them */

    for (size_t i = 0; i < sizeof WINDOWS / sizeof WINDOWS[0]; i++)
        if (strcmp(text, WINDOWS[i]) == 0)
            return (Dunlin__V1__PopularityWindow)i;
    argp_error(state, "--window %s: it must be trend, hour, day, week or ever", text);
    return DUNLIN__V1__POPULARITY_WINDOW__POPULARITY_WINDOW_TREND;
}

/* "x2:FILTER", "+1:FILTER". */
static void add_boost(struct argp_state *state, char *text, struct arguments *arguments)
{
    struct boost *boost = &arguments->boosts[arguments->boost_count];
    struct dn_error err = {0};
    char *end = text;
    double number = 0;
    size_t at = 0;

    if (arguments->boost_count == DN_BOOSTS_MAX)
        argp_error(state, "more than %d times --boost", DN_BOOSTS_MAX);
    if (strchr("x+-", text[0]) != NULL && text[0] != '\0')
        number = strtod(text + (text[0] != '-'), &end);
    if (end == text || end == text + (text[0] != '-') || *end != ':') {
        argp_error(state, "--boost '%s': write x2:FILTER, or +1:FILTER or -1:FILTER", text);
        return;
    }
    dunlin__v1__boost__init(&boost->boost);
    dn_cli_filter_init(&boost->filter);
    if (dn_cli_filter_add(&boost->filter, end + 1, &at, &err) != DN_OK)
        dn_cli_filter_refuse(state, "--boost", end + 1, at, &err);
    if (text[0] == 'x')
        boost->boost.times = (float)number;
    else
        boost->boost.plus = (float)number;
    if (text[0] == 'x' && !(boost->boost.times > 0))
        argp_error(state, "--boost '%s': must be above 0", text);
    boost->boost.filter = &boost->filter.filter;
    arguments->boost_pointers[arguments->boost_count++] = &boost->boost;
}

/* "3:ITEM" */
static void add_pin(struct argp_state *state, char *text, struct arguments *arguments)
{
    Dunlin__V1__Pin *pin = &arguments->pins[arguments->pin_count];
    char *colon = strchr(text, ':');

    if (arguments->pin_count == DN_PINS_MAX)
        argp_error(state, "more than %d times --pin", DN_PINS_MAX);
    if (colon == NULL || colon[1] == '\0') {
        argp_error(state, "--pin '%s': write PLACE:ITEM", text);
        return;
    }
    *colon = '\0';
    dunlin__v1__pin__init(pin);
    pin->place = (uint32_t)dn_cli_number(state, "--pin's place", text, 1, 1000);
    pin->item_id = colon + 1;
    arguments->pin_pointers[arguments->pin_count++] = pin;
}

static void set_diversity(struct argp_state *state, const char *text, struct arguments *arguments)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0 && value <= 1))
        argp_error(state, "--diversity must be a number from 0 to 1, not '%s'", text);
    arguments->diversity = (float)value;
}

static error_t parse_rules(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case KEY_PURCHASED:
        arguments->exclude_purchased = true;
        break;
    case KEY_DIVERSITY:
        set_diversity(state, text, arguments);
        break;
    case KEY_CAP:
        arguments->category_cap = (uint32_t)dn_cli_number(state, "--category-cap", text, 1, 1000);
        break;
    case KEY_BOOST:
        add_boost(state, text, arguments);
        break;
    case KEY_PIN:
        add_pin(state, text, arguments);
        break;
    case KEY_ANCHOR:
        arguments->anchor = text;
        break;
    case KEY_VARIANT:
        arguments->variant = text;
        break;
    case KEY_PRIVATE:
        arguments->do_not_record = true;
        break;
    case KEY_WINDOW:
        arguments->window = window_of(state, text);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        state->child_inputs[1] = &arguments->filter;
        state->child_inputs[2] = &arguments->read;
        break;
    case 'k':
        arguments->k = (uint32_t)dn_cli_number(state, "-k", text, 1, 1000);
        break;
    case KEY_SEEN:
        arguments->include_seen = true;
        break;
    case KEY_ITEMS:
        split(state, "items", text, &arguments->items);
        break;
    case KEY_EXCLUDE:
        split(state, "exclude", text, &arguments->exclude);
        break;
    case ARGP_KEY_ARG:
        if (!arguments->wants_subject || arguments->subject != NULL)
            argp_error(state, "unexpected argument '%s'", text);
        arguments->subject = text;
        break;
    case ARGP_KEY_END:
        if (arguments->wants_subject && arguments->subject == NULL && arguments->items.count == 0)
            argp_error(state, "whom or what for? give the id");
        break;
    default:
        return parse_rules(key, text, state);
    }
    return 0;
}

static const struct argp_child children[] = {
    {&dn_cli_argp, 0, NULL, 0}, {&dn_cli_filter_argp, 0, NULL, 0}, {&dn_cli_read_argp, 0, NULL, 0}, {0}};

static void begin(struct arguments *arguments, struct dn_cli *cli, bool wants_subject)
{
    memset(arguments, 0, sizeof *arguments);
    arguments->cli = cli;
    arguments->k = 20;
    arguments->wants_subject = wants_subject;
    dn_cli_read_init(&arguments->read);
    dn_cli_filter_init(&arguments->filter);
}

static void end(struct arguments *arguments)
{
    dn_cli_filter_free(&arguments->filter);
    for (size_t i = 0; i < arguments->boost_count; i++)
        dn_cli_filter_free(&arguments->boosts[i].filter);
    free(arguments->items.text);
    free(arguments->items.ids);
    free(arguments->exclude.text);
    free(arguments->exclude.ids);
}

/* ---- printing
 * ---------------------------------------------------------------------------------------------------------
 */

static json_t *items_json(Dunlin__V1__RecommendedItem *const *items, size_t count)
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:s, s:s}", "id", items[i]->id, "score",
                                              (double)items[i]->score, "source", items[i]->source, "reason",
                                              items[i]->reason));
    return list;
}

static void items_text(Dunlin__V1__RecommendedItem *const *items, size_t count)
{
    if (count == 0)
        puts("no items: is the catalogue loaded (`dunlin catalog load`), and does the filter leave any?");
    for (size_t i = 0; i < count; i++)
        printf("%4zu  %-24s %9.4f  %-16s %s\n", i + 1, dn_cli_clean(items[i]->id), (double)items[i]->score,
               dn_cli_clean(items[i]->source), dn_cli_clean(items[i]->reason));
}

static void print_items_response(const struct dn_cli *cli, const Dunlin__V1__ItemsResponse *response)
{
    if (cli->json) {
        dn_cli_print_json(json_pack("{s:o, s:o}", "items", items_json(response->items, response->n_items),
                                    "freshness", dn_cli_json_freshness(response->freshness)));
        return;
    }
    items_text(response->items, response->n_items);
    dn_cli_print_freshness(response->freshness);
}

static void print_recommend_response(const struct dn_cli *cli, const Dunlin__V1__RecommendResponse *response)
{
    char *token = dn_cli_hex(&response->token);

    if (cli->json) {
        dn_cli_print_json(json_pack(
            "{s:o, s:o, s:I, s:I, s:s, s:s}", "items", items_json(response->items, response->n_items),
            "freshness", dn_cli_json_freshness(response->freshness), "session_version",
            (json_int_t)response->session_version, "session_events", (json_int_t)response->session_events,
            "variant", response->variant, "token", token));
    } else {
        items_text(response->items, response->n_items);
        printf("session of %u events, version %llu\n", response->session_events,
               (unsigned long long)response->session_version);
        if (response->variant[0] != '\0')
            printf("variant %s\n", dn_cli_clean(response->variant));
        dn_cli_print_freshness(response->freshness);
        if (*token != '\0')
            printf("token %s\n", token);
    }
    free(token);
}

/* ---- the subcommands
 * ---------------------------------------------------------------------------------------------------- */

static void put_rules(struct arguments *arguments, Dunlin__V1__RecommendRequest *request)
{
    request->diversity = arguments->diversity;
    request->category_cap = arguments->category_cap;
    request->n_boosts = arguments->boost_count;
    request->boosts = arguments->boost_pointers;
    request->n_pins = arguments->pin_count;
    request->pins = arguments->pin_pointers;
    request->exclude_purchased = arguments->exclude_purchased;
    request->do_not_record = arguments->do_not_record;
    request->anchor = (char *)(uintptr_t)(arguments->anchor != NULL ? arguments->anchor : "");
    request->variant = (char *)(uintptr_t)(arguments->variant != NULL ? arguments->variant : "");
}

int dn_cli_recommend(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp argp = {
        .options = recommend_options,
        .parser = parse,
        .args_doc = "USER",
        .children = children,
        .doc = "Recommends items to a user.\vExamples: dunlin recommend u1 -k 5 --filter 'price < 20 and not "
               "brand in (a, b)'\n          dunlin recommend u1 --pin 1:welcome --category-cap 3 --boost "
               "'x2:brand = dune'"};
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    struct arguments arguments;
    ProtobufCMessage *answer;
    int exit_code;

    begin(&arguments, cli, true);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    request.user_id = (char *)(uintptr_t)(arguments.subject != NULL ? arguments.subject : "");
    request.k = arguments.k;
    request.read = &arguments.read.options;
    request.filter = &arguments.filter.filter;
    request.include_seen = arguments.include_seen;
    request.items = arguments.items.ids;
    request.n_items = arguments.items.count;
    request.exclude = arguments.exclude.ids;
    request.n_exclude = arguments.exclude.count;
    put_rules(&arguments, &request);
    exit_code = dn_cli_call(cli, "/dunlin.v1.Recommendations/Recommend", &request.base,
                            &dunlin__v1__recommend_response__descriptor, &answer);
    if (exit_code == DN_CLI_OK) {
        print_recommend_response(cli, (const Dunlin__V1__RecommendResponse *)answer);
        protobuf_c_message_free_unpacked(answer, NULL);
    }
    end(&arguments);
    return exit_code;
}

static int call_items(struct dn_cli *cli, const char *path, const ProtobufCMessage *request)
{
    ProtobufCMessage *answer;
    int exit_code = dn_cli_call(cli, path, request, &dunlin__v1__items_response__descriptor, &answer);

    if (exit_code == DN_CLI_OK) {
        print_items_response(cli, (const Dunlin__V1__ItemsResponse *)answer);
        protobuf_c_message_free_unpacked(answer, NULL);
    }
    return exit_code;
}

int dn_cli_similar(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp argp = {.options = list_options,
                                     .parser = parse,
                                     .args_doc = "ITEM",
                                     .children = children,
                                     .doc = "Items whose vectors are nearest to an item's."};
    Dunlin__V1__SimilarRequest request = DUNLIN__V1__SIMILAR_REQUEST__INIT;
    struct arguments arguments;
    int exit_code;

    begin(&arguments, cli, true);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    request.item_id = (char *)(uintptr_t)arguments.subject;
    request.k = arguments.k;
    request.filter = &arguments.filter.filter;
    request.read = &arguments.read.options;
    exit_code = call_items(cli, "/dunlin.v1.Recommendations/Similar", &request.base);
    end(&arguments);
    return exit_code;
}

int dn_cli_trending(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp argp = {.options = trending_options,
                                     .parser = parse,
                                     .children = children,
                                     .doc = "Items with the most events, of late or ever.\vExample: dunlin "
                                            "trending --filter 'category = shoes' "
                                            "--window ever"};
    Dunlin__V1__TrendingRequest request = DUNLIN__V1__TRENDING_REQUEST__INIT;
    struct arguments arguments;
    int exit_code;

    begin(&arguments, cli, false);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    request.k = arguments.k;
    request.filter = &arguments.filter.filter;
    request.read = &arguments.read.options;
    request.window = arguments.window;
    exit_code = call_items(cli, "/dunlin.v1.Recommendations/Trending", &request.base);
    end(&arguments);
    return exit_code;
}
