/* dunlin member: who is in the cluster, and changing that. */
#include "node/cli.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NODE_ID_MAX INT64_C(1000000000000000000) /* as in the configuration */
#define POLL_MS 200
#define WAIT_DEFAULT_S 600
#define WAIT_MAX_S 86400
#define PROGRESS_MAX 240

static const char *const role_names[] = {
    [DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_WAITING] = "waiting",
    [DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_LEARNER] = "learner",
    [DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_REPLICA] = "replica",
    [DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER] = "voter",
    [DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_LEAVING] = "leaving",
};

/* Everything but "list", which has no op. */
static const struct {
    const char *name;
    Dunlin__V1__MemberOp op;
    const char *done; /* "node 4 is (being) added" */
} actions[] = {
    {"list", DUNLIN__V1__MEMBER_OP__MEMBER_OP_UNSPECIFIED, ""},
    {"add", DUNLIN__V1__MEMBER_OP__MEMBER_OP_ADD, "added"},
    {"promote", DUNLIN__V1__MEMBER_OP__MEMBER_OP_PROMOTE, "promoted"},
    {"remove", DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE, "removed"},
    {"replace", DUNLIN__V1__MEMBER_OP__MEMBER_OP_REPLACE, "replaced"},
};
enum { ACTIONS = sizeof actions / sizeof actions[0] };

struct arguments {
    struct dn_cli *cli;
    size_t action; /* in actions */
    bool action_given;
    uint64_t node_id; /* 0: not given */
    bool replica;
    unsigned wait_s; /* 0: do not wait */
};

/* ---- arguments
 * ----------------------------------------------------------------------------------------------- */

enum { KEY_REPLICA = 5300, KEY_WAIT };

static const struct argp_option options[] = {
    {"replica", KEY_REPLICA, NULL, 0, "add: the node serves reads and never votes", 20},
    {"wait", KEY_WAIT, "SECONDS", OPTION_ARG_OPTIONAL,
     "Wait until the change is done in every group (at most 600 seconds, or as many as given)", 20},
    {0},
};

static void take_argument(struct arguments *arguments, char *text, struct argp_state *state)
{
    if (arguments->action_given) {
        if (arguments->node_id != 0)
            argp_error(state, "unexpected argument '%s'", text);
        arguments->node_id = (uint64_t)dn_cli_number(state, "ID", text, 1, NODE_ID_MAX);
        return;
    }
    while (arguments->action < ACTIONS && strcmp(text, actions[arguments->action].name) != 0)
        arguments->action++;
    if (arguments->action == ACTIONS)
        argp_error(state, "unknown action '%s': use list, add, promote, remove or replace", text);
    arguments->action_given = true;
}

static void check_arguments(const struct arguments *arguments, struct argp_state *state)
{
    Dunlin__V1__MemberOp op = actions[arguments->action].op;

    if (!arguments->action_given)
        argp_error(state, "say list, or add, promote, remove or replace with a node's ID");
    if (op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_UNSPECIFIED) {
        if (arguments->node_id != 0 || arguments->wait_s != 0)
            argp_error(state, "list takes neither an ID nor --wait");
    } else if (arguments->node_id == 0)
        argp_error(state, "%s what? give the node's ID (`dunlin member list` shows them)",
                   actions[arguments->action].name);
    if (arguments->replica && op != DUNLIN__V1__MEMBER_OP__MEMBER_OP_ADD)
        argp_error(state, "--replica goes with add");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_REPLICA:
        arguments->replica = true;
        return 0;
    case KEY_WAIT:
        arguments->wait_s =
            text != NULL ? (unsigned)dn_cli_number(state, "--wait", text, 1, WAIT_MAX_S) : WAIT_DEFAULT_S;
        return 0;
    case ARGP_KEY_ARG:
        take_argument(arguments, text, state);
        return 0;
    case ARGP_KEY_END:
        check_arguments(arguments, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- list
 * ---------------------------------------------------------------------------------------------------- */

static const char *role_name(const Dunlin__V1__Member *member)
{
    size_t role = (size_t)member->role;

    return role < sizeof role_names / sizeof role_names[0] ? role_names[role] : "?";
}

static bool waits(const Dunlin__V1__Member *member)
{
    return member->role == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_WAITING;
}

/* The member with this number that does not wait, and that is not `but` (0: any); NULL when there is none. */
static const Dunlin__V1__Member *find(const Dunlin__V1__ListMembersResponse *list, uint64_t node_id,
                                      uint64_t but)
{
    for (size_t i = 0; i < list->n_members; i++) {
        const Dunlin__V1__Member *member = list->members[i];

        if (member->node_id == node_id && !waits(member) && (but == 0 || member->raft_id != but))
            return member;
    }
    return NULL;
}

static void list_json(const Dunlin__V1__ListMembersResponse *list)
{
    json_t *members = json_array();

    for (size_t i = 0; i < list->n_members; i++) {
        const Dunlin__V1__Member *member = list->members[i];
        char raft_id[20], replaces[20];

        snprintf(raft_id, sizeof raft_id, "%016llx", (unsigned long long)member->raft_id);
        snprintf(replaces, sizeof replaces, "%016llx", (unsigned long long)member->replaces);
        json_array_append_new(
            members,
            json_pack("{s:I, s:s, s:s, s:s, s:s, s:o, s:b, s:b, s:I, s:I, s:I}", "node_id",
                      (json_int_t)member->node_id, "name", member->name, "role", role_name(member), "address",
                      member->address, "raft_id", raft_id, "replaces",
                      member->replaces != 0 ? json_string(replaces) : json_null(), "connected",
                      member->connected != 0, "self", member->self != 0, "groups", (json_int_t)member->groups,
                      "voting", (json_int_t)member->voting, "leading", (json_int_t)member->leading));
    }
    dn_cli_print_json(json_pack("{s:b, s:s, s:I, s:I, s:I, s:o}", "formed", list->formed != 0, "waiting_for",
                                list->waiting_for, "config_index", (json_int_t)list->config_index, "groups",
                                (json_int_t)list->groups, "node_id", (json_int_t)list->node_id, "members",
                                members));
}

/* What is to be done with those that wait, and who goes when another is ready. */
static void print_notes(const Dunlin__V1__ListMembersResponse *list)
{
    for (size_t i = 0; i < list->n_members; i++) {
        const Dunlin__V1__Member *member = list->members[i];
        unsigned long long id = (unsigned long long)member->node_id;

        if (member->replaces != 0)
            printf("node %llu (raft id %016llx) takes the place of raft id %016llx once it is close\n", id,
                   (unsigned long long)member->raft_id, (unsigned long long)member->replaces);
        if (!waits(member) || !list->formed)
            continue;
        if (find(list, member->node_id, 0) != NULL)
            printf("node %llu waits with an empty data directory, and there is a member %llu already: if it "
                   "is the same node come back, `dunlin member replace %llu`; else give it another node.id\n",
                   id, id, id);
        else
            printf("node %llu waits to be let in: `dunlin member add %llu` (with --replica: without a "
                   "vote)\n",
                   id, id);
    }
}

static void list_text(const Dunlin__V1__ListMembersResponse *list)
{
    if (list->formed)
        printf("configuration %llu, as node %llu knows it (*); %u groups\n",
               (unsigned long long)list->config_index, (unsigned long long)list->node_id, list->groups);
    else
        printf("node %llu is NOT PART OF A CLUSTER yet: %s\n", (unsigned long long)list->node_id,
               list->waiting_for[0] != '\0' ? dn_cli_clean(list->waiting_for) : "it is starting");
    if (list->n_members > 0)
        printf("%7s  %-8s %-24s %-9s %6s %6s %7s  %s\n", "node", "role", "address", "connected", "groups",
               "voting", "leading", "raft id");
    for (size_t i = 0; i < list->n_members; i++) {
        const Dunlin__V1__Member *member = list->members[i];

        printf("%6llu%c  %-8s %-24s %-9s %6u %6u %7u  %016llx\n", (unsigned long long)member->node_id,
               member->self ? '*' : ' ', role_name(member), dn_cli_clean(member->address),
               member->connected ? "yes" : "NO", member->groups, member->voting, member->leading,
               (unsigned long long)member->raft_id);
    }
    print_notes(list);
}

static const Dunlin__V1__ListMembersRequest list_request = DUNLIN__V1__LIST_MEMBERS_REQUEST__INIT;
static const char list_path[] = "/dunlin.v1.Cluster/ListMembers";

static int list_call(struct dn_cli *cli, Dunlin__V1__ListMembersResponse **ret)
{
    ProtobufCMessage *answer;
    int exit_code = dn_cli_call(cli, list_path, &list_request.base,
                                &dunlin__v1__list_members_response__descriptor, &answer);

    if (exit_code == DN_CLI_OK)
        *ret = (Dunlin__V1__ListMembersResponse *)answer;
    return exit_code;
}

static int list_members(struct dn_cli *cli)
{
    Dunlin__V1__ListMembersResponse *list;
    int exit_code = list_call(cli, &list);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    (cli->json ? list_json : list_text)(list);
    dunlin__v1__list_members_response__free_unpacked(list, NULL);
    return DN_CLI_OK;
}

/* ---- waiting
 * ------------------------------------------------------------------------------------------------- */

bool dn_cli_wish_met(const struct dn_cli_wish *wish, const Dunlin__V1__ListMembersResponse *now,
                     char *progress, size_t size)
{
    unsigned long long id = (unsigned long long)wish->node_id;
    const Dunlin__V1__Member *member = find(now, wish->node_id, wish->old_raft_id);
    const Dunlin__V1__Member *old = NULL;

    for (size_t i = 0; i < now->n_members && wish->old_raft_id != 0; i++)
        if (now->members[i]->raft_id == wish->old_raft_id)
            old = now->members[i];
    if (wish->op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE) {
        if (member != NULL)
            snprintf(progress, size, "node %llu: still in %u of %u groups", id, member->groups, now->groups);
        else
            snprintf(progress, size, "node %llu: no longer a member", id);
        return member == NULL;
    }
    if (member == NULL) {
        snprintf(progress, size, "node %llu: not in the list of node %llu yet", id,
                 (unsigned long long)now->node_id);
        return false;
    }
    snprintf(progress, size, "node %llu: %s, in %u of %u groups, votes in %u%s", id, role_name(member),
             member->groups, now->groups, member->voting,
             old != NULL ? "; the one it replaces is there yet" : "");
    if (old != NULL || member->groups != now->groups)
        return false;
    return wish->replica
               ? member->role == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_REPLICA
               : member->role == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER && member->voting == now->groups;
}

/* Polls until the wish is met. The asked node may be restarted or cut off meanwhile; when it is the one that
 * is removed, its end is the answer. */
static int wait_for(struct arguments *arguments, const struct dn_cli_wish *wish, bool asked_leaves)
{
    uint64_t end_us = dn_monotonic_us() + arguments->wait_s * UINT64_C(1000000);
    char progress[PROGRESS_MAX] = "", shown[PROGRESS_MAX] = "";

    while (dn_monotonic_us() < end_us) {
        ProtobufCMessage *answer;
        struct dn_error err = {0};
        bool connected, met = false;
        enum dn_code code =
            dn_cli_try(arguments->cli, list_path, &list_request.base,
                       &dunlin__v1__list_members_response__descriptor, &answer, &connected, &err);

        if (code == DN_OK) {
            met = dn_cli_wish_met(wish, (const Dunlin__V1__ListMembersResponse *)answer, progress,
                                  sizeof progress);
            protobuf_c_message_free_unpacked(answer, NULL);
        } else if (!connected && asked_leaves) {
            snprintf(progress, sizeof progress, "node %llu: has left", (unsigned long long)wish->node_id);
            met = true;
        } else {
            snprintf(progress, sizeof progress, "no answer from %.100s: %.100s", arguments->cli->server,
                     dn_cli_clean(err.message));
        }
        if (strcmp(progress, shown) != 0)
            fprintf(stderr, "%s\n", progress);
        memcpy(shown, progress, sizeof shown);
        if (met)
            return DN_CLI_OK;
        usleep(POLL_MS * 1000);
    }
    fprintf(stderr,
            "dunlin: member %s %llu: committed, but not done in every group within %u s (%s)\n"
            "        it goes on by itself: `dunlin member list` shows how far it is\n",
            actions[arguments->action].name, (unsigned long long)wish->node_id, arguments->wait_s, progress);
    return DN_CLI_FAILED;
}

/* ---- changes
 * ------------------------------------------------------------------------------------------------- */

static int change(struct arguments *arguments)
{
    Dunlin__V1__ChangeMemberRequest request = DUNLIN__V1__CHANGE_MEMBER_REQUEST__INIT;
    ProtobufCMessage *answer;
    struct dn_error err = {0};
    bool connected;
    enum dn_code code;
    int exit_code = dn_cli_connect(arguments->cli);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    request.op = actions[arguments->action].op;
    request.node_id = arguments->node_id;
    request.replica = arguments->replica;
    code = dn_cli_try(arguments->cli, "/dunlin.v1.Cluster/ChangeMember", &request.base,
                      &dunlin__v1__change_member_response__descriptor, &answer, &connected, &err);
    if (code != DN_OK) {
        char what[64];

        snprintf(what, sizeof what, "member %s %llu", actions[arguments->action].name,
                 (unsigned long long)arguments->node_id);
        exit_code = dn_cli_complain(arguments->cli, what, code, err.message);
        if (code == DN_DEADLINE || code == DN_UNAVAILABLE)
            fputs("        it may have happened: look at `dunlin member list` before you try again\n",
                  stderr);
        return exit_code;
    }
    protobuf_c_message_free_unpacked(answer, NULL);
    return DN_CLI_OK;
}

static void say_done(const struct arguments *arguments)
{
    unsigned long long id = (unsigned long long)arguments->node_id;

    if (arguments->cli->json)
        dn_cli_print_json(json_pack("{s:s, s:I, s:b}", "op", actions[arguments->action].name, "node_id",
                                    (json_int_t)arguments->node_id, "done", arguments->wait_s != 0));
    else if (arguments->wait_s != 0)
        printf("node %llu is %s\n", id, actions[arguments->action].done);
    else
        printf("node %llu is being %s: `dunlin member list` shows how far it is (--wait waits for it)\n", id,
               actions[arguments->action].done);
}

static int change_member(struct arguments *arguments)
{
    struct dn_cli_wish wish = {
        .op = actions[arguments->action].op, .node_id = arguments->node_id, .replica = arguments->replica};
    bool asked_leaves = false;
    int exit_code;

    if (arguments->wait_s != 0) {
        Dunlin__V1__ListMembersResponse *before;
        const Dunlin__V1__Member *old;

        exit_code = list_call(arguments->cli, &before);
        if (exit_code != DN_CLI_OK)
            return exit_code;
        old = find(before, arguments->node_id, 0);
        asked_leaves = wish.op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE && old != NULL && old->self;
        if (wish.op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_REPLACE && old != NULL) {
            wish.old_raft_id = old->raft_id;
            wish.replica = old->role == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_REPLICA;
        }
        dunlin__v1__list_members_response__free_unpacked(before, NULL);
    }
    exit_code = change(arguments);
    if (exit_code == DN_CLI_OK && arguments->wait_s != 0)
        exit_code = wait_for(arguments, &wish, asked_leaves);
    if (exit_code == DN_CLI_OK)
        say_done(arguments);
    return exit_code;
}

int dn_cli_member(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "list\nadd ID\npromote ID\nremove ID\nreplace ID",
        .children = children,
        .doc = "Shows and changes who is in the cluster. Any node can be asked; one change at a time.\v"
               "add      lets in a node that waits; it gets a vote by itself once it has caught up\n"
               "promote  gives a replica a vote\n"
               "remove   takes a node out; its process ends, and its data directory does not start again\n"
               "replace  lets a node that lost its data directory take its own old place\n\n"
               "A node that is to be added is started with an empty data directory, node.address, and the "
               "members "
               "it asks in cluster.members. Exit code 1: refused, or not done in the time of --wait."};
    struct arguments arguments = {.cli = cli};

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return actions[arguments.action].op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_UNSPECIFIED
               ? list_members(cli)
               : change_member(&arguments);
}
