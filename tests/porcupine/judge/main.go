// Judges histories by Porcupine (github.com/anishathalye/porcupine), an independent checker of linearizability, and
// compares: each FILE.edn begins with what our own rules say to it ("; ours: valid", "; ours: violated"), see ../project.c.
//
// The model of one user: a set of events, and the set of those that were erased. Each event of a publish is an operation of
// its own (a batch is not atomic): it adds the event, unless it is there or was erased before, and then it was not answered
// ACCEPTED. An erasure moves all to the erased ones. A read returns the set. An event is its number and its time. What nobody knows the end of may happen at any later time; what surely failed is left out.
//
// Exit codes: 0 all verdicts agree, 1 one does not, 2 a file cannot be read.
package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Search for one user's history; those that take longer are undecided, and counted.
const timeLimit = 10 * time.Second

// Undecided histories that are still no failure.
const undecidedMax = 3

type input struct {
	kind  string // "accept", "add", "erase", "read"
	event string
}

// A state is written as "present|erased", each a sorted list: Porcupine compares states often.
func join(events []string) string {
	sort.Strings(events)
	return strings.Join(events, " ")
}

func contains(events []string, event string) bool {
	for _, one := range events {
		if one == event {
			return true
		}
	}
	return false
}

var model = porcupine.Model{
	Init: func() interface{} { return "|" },
	Step: func(state, in, out interface{}) (bool, interface{}) {
		parts := strings.SplitN(state.(string), "|", 2)
		switch question := in.(input); question.kind {
		case "accept", "add":
			present, erased := strings.Fields(parts[0]), strings.Fields(parts[1])
			if contains(present, question.event) || contains(erased, question.event) {
				return question.kind == "add", state
			}
			return true, join(append(present, question.event)) + "|" + parts[1]
		case "erase":
			return true, "|" + join(append(strings.Fields(parts[0]), strings.Fields(parts[1])...))
		default:
			return out.(string) == parts[0], state
		}
	},
	Equal: func(a, b interface{}) bool { return a.(string) == b.(string) },
}

// ---- EDN -----------------------------------------------------------------------------------------------

type parser struct {
	text string
	at   int
}

func (p *parser) skip() {
	for p.at < len(p.text) && strings.IndexByte(" ,\t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// value reads the next map, list, text, keyword (as ":name"), number or boolean.
func (p *parser) value() interface{} {
	p.skip()
	switch c := p.text[p.at]; {
	case c == '{':
		p.at++
		all := map[string]interface{}{}
		for p.skip(); p.text[p.at] != '}'; p.skip() {
			key := p.value().(string)
			all[key] = p.value()
		}
		p.at++
		return all
	case c == '[':
		p.at++
		list := []interface{}{}
		for p.skip(); p.text[p.at] != ']'; p.skip() {
			list = append(list, p.value())
		}
		p.at++
		return list
	case c == '"':
		from := p.at
		for p.at++; p.text[p.at] != '"'; p.at++ {
			if p.text[p.at] == '\\' {
				p.at++
			}
		}
		p.at++
		return p.text[from:p.at]
	default:
		from := p.at
		for p.at < len(p.text) && strings.IndexByte(" ,\t\r\n{}[]\"", p.text[p.at]) < 0 {
			p.at++
		}
		word := p.text[from:p.at]
		if c == ':' || word == "true" || word == "false" {
			return word
		}
		if number, err := strconv.ParseUint(strings.TrimSuffix(word, "N"), 10, 64); err == nil {
			return number
		}
		number, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			panic("not EDN: " + word)
		}
		return number
	}
}

type operation struct {
	index   int64
	kind, f string
	user    uint64
	events  [][]interface{}
}

func parse(line string) (operation, string) {
	p := parser{text: line}
	all := p.value().(map[string]interface{})
	value := all[":value"].(map[string]interface{})
	op := operation{index: int64(all[":index"].(uint64)), kind: all[":type"].(string), f: all[":f"].(string)}
	op.user = value[":user"].(uint64)
	if events, ok := value[":events"].([]interface{}); ok {
		for _, event := range events {
			op.events = append(op.events, event.([]interface{}))
		}
	}
	return op, fmt.Sprint(all[":process"])
}

func name(event []interface{}) string {
	return fmt.Sprintf("%v@%v", event[0], event[1])
}

func (op operation) outcome(id uint64) string {
	for _, event := range op.events {
		if event[0].(uint64) == id && len(event) > 2 {
			return event[2].(string)
		}
	}
	return ":unknown"
}

// ---- one history ---------------------------------------------------------------------------------------

type users map[uint64][]porcupine.Operation

func (u users) add(user uint64, in input, out interface{}, call, end int64) {
	u[user] = append(u[user], porcupine.Operation{
		ClientId: len(u[user]), Input: in, Output: out, Call: call, Return: end})
}

// end is nil when there is none.
func (u users) take(invoke operation, end *operation) {
	if end != nil && end.kind == ":fail" {
		return
	}
	known := end != nil && end.kind == ":ok"
	until := int64(math.MaxInt64)
	if known {
		until = end.index
	}
	switch invoke.f {
	case ":read":
		if known {
			events := []string{}
			for _, event := range end.events {
				events = append(events, name(event))
			}
			u.add(invoke.user, input{kind: "read"}, join(events), invoke.index, until)
		}
	case ":erase":
		u.add(invoke.user, input{kind: "erase"}, nil, invoke.index, until)
	case ":publish":
		for _, event := range invoke.events {
			kind, happened, outcome := "add", until, ":unknown"
			if end != nil {
				outcome = end.outcome(event[0].(uint64))
			}
			switch outcome {
			case ":accepted":
				kind, happened = "accept", end.index
			case ":duplicate":
				happened = end.index
			case ":unknown", ":erased": // an erasure may have come between the server's own two tries
				happened = math.MaxInt64
			default:
				continue
			}
			u.add(invoke.user, input{kind: kind, event: name(event)}, nil, invoke.index, happened)
		}
	}
}

func read(path string) (users, bool, error) {
	bytes, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	lines := strings.Split(strings.TrimSpace(string(bytes)), "\n")
	if lines[0] != "; ours: valid" && lines[0] != "; ours: violated" {
		return nil, false, fmt.Errorf("%s: the first line does not say what our rules found", path)
	}
	all, open := users{}, map[string]operation{}
	for _, line := range lines[1:] {
		op, process := parse(line)
		if op.kind == ":invoke" {
			open[process] = op
			continue
		}
		all.take(open[process], &op)
		delete(open, process)
	}
	for _, invoke := range open {
		all.take(invoke, nil)
	}
	return all, lines[0] == "; ours: valid", nil
}

func judge(all users) (porcupine.CheckResult, uint64) {
	result, where := porcupine.CheckResult(porcupine.Ok), uint64(0)
	for user, operations := range all {
		switch porcupine.CheckOperationsTimeout(model, operations, timeLimit) {
		case porcupine.Illegal:
			return porcupine.Illegal, user
		case porcupine.Unknown:
			result, where = porcupine.Unknown, user
		}
	}
	return result, where
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "Usage: porcupine FOLDER")
		os.Exit(2)
	}
	paths, _ := filepath.Glob(filepath.Join(os.Args[1], "*.edn"))
	counts := map[bool]int{}
	undecided, disagree := 0, 0
	for _, path := range paths {
		all, valid, err := read(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		result, user := judge(all)
		if result == porcupine.Unknown {
			fmt.Printf("%s: user %d: undecided within %s\n", filepath.Base(path), user, timeLimit)
			undecided++
		} else if valid != (result == porcupine.Ok) {
			fmt.Printf("%s: our rules say valid: %t; Porcupine says %s (user %d)\n", filepath.Base(path), valid, result, user)
			disagree++
		} else {
			counts[valid]++
		}
	}
	fmt.Printf("%d histories valid and %d violated by both, %d undecided, %d disagree\n",
		counts[true], counts[false], undecided, disagree)
	if disagree > 0 || undecided > undecidedMax || counts[true] == 0 || counts[false] == 0 {
		os.Exit(1)
	}
}
