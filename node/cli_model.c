/* dunlin model: the weights that make one order of what the sources say. */
#include "node/cli.h"

#include "base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FILE_BYTES_MAX ((size_t)1 << 20)
#define VECTORS_MAX 16
#define FEATURES_MAX 256

/* "show" has no op. */
static const struct {
    const char *name;
    Dunlin__V1__ModelOp op;
    const char *done;
} actions[] = {
    {"show", DUNLIN__V1__MODEL_OP__MODEL_OP_UNSPECIFIED, ""},
    {"reset", DUNLIN__V1__MODEL_OP__MODEL_OP_RESET, "the default is in force; learning goes on from there"},
    {"freeze", DUNLIN__V1__MODEL_OP__MODEL_OP_FREEZE, "frozen: nothing that is learned counts"},
    {"unfreeze", DUNLIN__V1__MODEL_OP__MODEL_OP_UNFREEZE, "learning goes on"},
    {"set", DUNLIN__V1__MODEL_OP__MODEL_OP_SET, "these weights are in force, and frozen"},
};
enum { ACTIONS = sizeof actions / sizeof actions[0] };

struct arguments {
    struct dn_cli *cli;
    struct dn_cli_read read;
    size_t action; /* in actions; ACTIONS: none yet */
    const char *file;
};

/* ---- arguments ------------------------------------------------------------------------------------------
 */

static void take_argument(struct arguments *arguments, const char *text, struct argp_state *state)
{
    if (arguments->action < ACTIONS) {
        if (actions[arguments->action].op != DUNLIN__V1__MODEL_OP__MODEL_OP_SET || arguments->file != NULL)
            argp_error(state, "unexpected argument '%s'", text);
        arguments->file = text;
        return;
    }
    for (arguments->action = 0; arguments->action < ACTIONS; arguments->action++)
        if (strcmp(text, actions[arguments->action].name) == 0)
            return;
    argp_error(state, "unknown action '%s': use show, reset, freeze, unfreeze or set", text);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        state->child_inputs[1] = &arguments->read;
        return 0;
    case ARGP_KEY_ARG:
        take_argument(arguments, text, state);
        return 0;
    case ARGP_KEY_END:
        if (arguments->action == ACTIONS)
            argp_error(state, "say show, reset, freeze, unfreeze, or set with a FILE");
        if (actions[arguments->action].op == DUNLIN__V1__MODEL_OP__MODEL_OP_SET && arguments->file == NULL)
            argp_error(state, "set what? give a FILE as `dunlin model show --json` writes it");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- show -----------------------------------------------------------------------------------------------
 */

/* A vector must have a weight for every feature, whatever the server says. */
static bool whole(const Dunlin__V1__GetModelResponse *model)
{
    for (size_t v = 0; v < model->n_vectors; v++)
        if (model->vectors[v]->n_weights != model->n_features)
            return false;
    return true;
}

/* Steals nothing; null where there is no network. */
static json_t *network_json(const Dunlin__V1__ModelNetwork *network)
{
    if (network == NULL)
        return json_null();
    return json_pack("{s:b, s:I, s:I, s:f, s:f}", "leads", network->leads != 0, "units",
                     (json_int_t)network->units, "steps", (json_int_t)network->steps, "loss",
                     (double)network->loss, "weights_loss", (double)network->weights_loss);
}

static void show_json(const Dunlin__V1__GetModelResponse *model)
{
    json_t *vectors = json_object();

    for (size_t v = 0; v < model->n_vectors; v++) {
        json_t *weights = json_object();

        for (size_t f = 0; f < model->n_features; f++)
            json_object_set_new(weights, model->features[f],
                                json_real((double)model->vectors[v]->weights[f]));
        json_object_set_new(vectors, model->vectors[v]->name, weights);
    }
    dn_cli_print_json(json_pack(
        "{s:b, s:I, s:I, s:b, s:I, s:I, s:s, s:I, s:o, s:o, s:o}", "learned", model->learned != 0, "version",
        (json_int_t)model->version, "generation", (json_int_t)model->generation, "frozen", model->frozen != 0,
        "steps", (json_int_t)model->steps, "node_id", (json_int_t)model->node_id, "node", model->node,
        "changed_ms", (json_int_t)model->changed_ms, "network", network_json(model->network), "weights",
        vectors, "freshness", dn_cli_json_freshness(model->freshness)));
}

static void print_head(const Dunlin__V1__GetModelResponse *model)
{
    char when[32] = "never";
    time_t changed_s = (time_t)(model->changed_ms / 1000);
    struct tm parts;

    if (model->version != 0 && gmtime_r(&changed_s, &parts) != NULL)
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &parts);
    printf("%s, generation %llu, version %llu, changed %s%s\n",
           model->learned          ? model->node_id != 0 ? "learned" : "set by an operator"
           : model->generation > 0 ? "default (reset)"
                                   : "default",
           (unsigned long long)model->generation, (unsigned long long)model->version, when,
           model->frozen ? "; FROZEN: nothing that is learned counts" : "");
    if (model->node_id != 0)
        printf("from %llu clicks; last by node %llu %s\n", (unsigned long long)model->steps,
               (unsigned long long)model->node_id, dn_cli_clean(model->node));
}

static void print_network(const Dunlin__V1__ModelNetwork *network)
{
    if (network == NULL)
        return;
    printf("network of %u units, from %u clicks: loss %.4f, the weights' %.4f; %s\n", network->units,
           network->steps, (double)network->loss, (double)network->weights_loss,
           network->leads ? "it corrects their scores" : "the weights serve alone");
}

static void show_text(const Dunlin__V1__GetModelResponse *model)
{
    print_head(model);
    print_network(model->network);
    printf("%-16s", "weight of");
    for (size_t v = 0; v < model->n_vectors; v++)
        printf(" %*s", v == 0 ? 9 : 18, dn_cli_clean(model->vectors[v]->name));
    printf("\n");
    for (size_t f = 0; f < model->n_features; f++) {
        printf("%-16s", dn_cli_clean(model->features[f]));
        for (size_t v = 0; v < model->n_vectors; v++)
            printf(" %*.4f", v == 0 ? 9 : 18, (double)model->vectors[v]->weights[f]);
        printf("\n");
    }
    printf("a session's weight is the shared one plus that of its length\n");
    dn_cli_print_freshness(model->freshness);
}

static int show(struct arguments *arguments)
{
    Dunlin__V1__GetModelRequest request = DUNLIN__V1__GET_MODEL_REQUEST__INIT;
    ProtobufCMessage *answer;

    request.read = &arguments->read.options;
    int exit_code = dn_cli_call(arguments->cli, "/dunlin.v1.Model/Get", &request.base,
                                &dunlin__v1__get_model_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    const Dunlin__V1__GetModelResponse *model = (const Dunlin__V1__GetModelResponse *)answer;
    if (whole(model))
        (arguments->cli->json ? show_json : show_text)(model);
    else
        exit_code =
            dn_cli_complain(arguments->cli, "model", DN_CORRUPT, "the answer's weights are not whole");
    protobuf_c_message_free_unpacked(answer, NULL);
    return exit_code;
}

/* ---- weights from a file --------------------------------------------------------------------------------
 */

struct weights { /* points into the file's JSON */
    char *features[FEATURES_MAX];
    Dunlin__V1__ModelVector vectors[VECTORS_MAX];
    Dunlin__V1__ModelVector *pointers[VECTORS_MAX];
    float values[VECTORS_MAX][FEATURES_MAX];
    size_t feature_count, vector_count;
};

static bool bad(const char *path, const char *what, const char *name)
{
    fprintf(stderr, "dunlin: %s: %s '%s'; write it as `dunlin model show --json` does\n", path, what,
            dn_cli_clean(name));
    return false;
}

/* The first vector says which features there are; the others must have the same. */
static bool take_vector(const char *path, const char *name, json_t *of, struct weights *ret)
{
    Dunlin__V1__ModelVector *vector = &ret->vectors[ret->vector_count];
    const char *feature;
    json_t *value;

    if (!json_is_object(of) || json_object_size(of) == 0 || json_object_size(of) > FEATURES_MAX)
        return bad(path, "no weights by name in", name);
    if (ret->vector_count == 0)
        json_object_foreach(of, feature, value)
        {
            ret->features[ret->feature_count++] = (char *)(uintptr_t)feature;
        }
    if (json_object_size(of) != ret->feature_count)
        return bad(path, "not the same features as in the first vector in", name);
    for (size_t f = 0; f < ret->feature_count; f++) {
        value = json_object_get(of, ret->features[f]);
        if (!json_is_number(value))
            return bad(path, "no number for", ret->features[f]);
        ret->values[ret->vector_count][f] = (float)json_number_value(value);
    }
    dunlin__v1__model_vector__init(vector);
    vector->name = (char *)(uintptr_t)name;
    vector->weights = ret->values[ret->vector_count];
    vector->n_weights = ret->feature_count;
    ret->pointers[ret->vector_count++] = vector;
    return true;
}

/* False: it was said what is wrong. */
static bool read_weights(const char *path, struct weights *ret, json_t **ret_json)
{
    json_error_t error;
    const char *name;
    json_t *of;

    memset(ret, 0, sizeof *ret);
    *ret_json = NULL;
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        fprintf(stderr, "dunlin: %s: cannot open: %s\n", path, strerror(errno));
        return false;
    }
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) >= 0 && (size_t)ftell(file) <= FILE_BYTES_MAX) {
        rewind(file);
        *ret_json = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    } else {
        snprintf(error.text, sizeof error.text, "no file of at most %zu bytes", FILE_BYTES_MAX);
        error.line = 0;
    }
    fclose(file);
    if (*ret_json == NULL) {
        fprintf(stderr, "dunlin: %s: line %d: %s\n", path, error.line, error.text);
        return false;
    }
    json_t *vectors = json_object_get(*ret_json, "weights");
    if (!json_is_object(vectors) || json_object_size(vectors) > VECTORS_MAX)
        return bad(path, "no object", "weights");
    json_object_foreach(vectors, name, of)
    {
        if (!take_vector(path, name, of, ret))
            return false;
    }
    return true;
}

/* ---- change ---------------------------------------------------------------------------------------------
 */

static int change(struct arguments *arguments, struct weights *weights)
{
    Dunlin__V1__ChangeModelRequest request = DUNLIN__V1__CHANGE_MODEL_REQUEST__INIT;
    ProtobufCMessage *answer;

    request.op = actions[arguments->action].op;
    if (weights != NULL) {
        request.features = weights->features;
        request.n_features = weights->feature_count;
        request.vectors = weights->pointers;
        request.n_vectors = weights->vector_count;
    }
    int exit_code = dn_cli_call(arguments->cli, "/dunlin.v1.Model/Change", &request.base,
                                &dunlin__v1__change_model_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    const Dunlin__V1__ChangeModelResponse *done = (const Dunlin__V1__ChangeModelResponse *)answer;
    char *token = dn_cli_hex(&done->token);
    if (arguments->cli->json)
        dn_cli_print_json(json_pack("{s:I, s:I, s:s}", "generation", (json_int_t)done->generation, "version",
                                    (json_int_t)done->version, "token", token));
    else
        printf("%s (generation %llu)\n", actions[arguments->action].done,
               (unsigned long long)done->generation);
    free(token);
    protobuf_c_message_free_unpacked(answer, NULL);
    return exit_code;
}

static int set(struct arguments *arguments)
{
    struct weights *weights = malloc(sizeof *weights);
    json_t *json = NULL;
    int exit_code = DN_CLI_FAILED;

    if (weights == NULL)
        fprintf(stderr, "dunlin: out of memory\n");
    else if (read_weights(arguments->file, weights, &json))
        exit_code = change(arguments, weights);
    json_decref(json);
    free(weights);
    return exit_code;
}

int dn_cli_model(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {
        {&dn_cli_argp, 0, NULL, 0}, {&dn_cli_read_argp, 0, "show:", 0}, {0}};
    static const struct argp argp = {
        .parser = parse,
        .args_doc = "show\nreset\nfreeze\nunfreeze\nset FILE",
        .children = children,
        .doc =
            "The weights that make one order of what the sources say. The cluster learns them from clicks; "
            "they are the same on every node.\v"
            "show: the weights in force, by feature, and where they come from. reset: back to the default. "
            "freeze: what is learned counts no longer, until unfreeze. set: the weights of a FILE (JSON, "
            "as show --json writes it), frozen."};
    struct arguments arguments = {.cli = cli, .action = ACTIONS};

    dn_cli_read_init(&arguments.read);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    if (actions[arguments.action].op == DUNLIN__V1__MODEL_OP__MODEL_OP_UNSPECIFIED)
        return show(&arguments);
    return arguments.file != NULL ? set(&arguments) : change(&arguments, NULL);
}
