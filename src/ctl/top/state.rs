//! What the user has chosen, and what a key does.

use crate::ctl::top::keys::TermKey;
use crate::ctl::top::lists::{CONNECTIONS, ListOf, SOURCES, Sorting, UPSTREAMS};
use crate::ctl::top::model::Model;

/// One of the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Upstreams,
    Connections,
    Sources,
}

impl Panel {
    pub(super) const ALL: [Panel; 3] = [Panel::Upstreams, Panel::Connections, Panel::Sources];
}

/// What keys mean just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Looking,
    /// A filter is being typed; this one counts if it is given up.
    Filtering(String),
    /// This command is sent if the question is answered with yes.
    Asking {
        command: String,
        question: String,
    },
    Help,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Quit,
    Send(String),
}

/// What was chosen in one list.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub sorting: Sorting,
    /// The key of a line.
    pub selected: Option<String>,
}

#[derive(Debug)]
pub(super) struct State {
    pub focus: Panel,
    /// The list with the focus has the whole screen.
    pub zoomed: bool,
    pub choices: [Choice; 3],
    pub filter: String,
    pub mode: Mode,
    /// What the last command has brought, or why there is no answer.
    pub message: String,
}

impl State {
    pub(super) fn new() -> State {
        let choice = |column| Choice { sorting: Sorting { column, reversed: false }, selected: None };
        State {
            focus: Panel::Upstreams,
            zoomed: false,
            // In the order of the configuration, the busiest connections, the busiest sources.
            choices: [choice(0), choice(5), choice(2)],
            filter: String::new(),
            mode: Mode::Looking,
            message: String::new(),
        }
    }

    pub(super) fn choice(&self, panel: Panel) -> &Choice {
        let [upstreams, connections, sources] = &self.choices;
        match panel {
            Panel::Upstreams => upstreams,
            Panel::Connections => connections,
            Panel::Sources => sources,
        }
    }

    fn choice_mut(&mut self) -> &mut Choice {
        let [upstreams, connections, sources] = &mut self.choices;
        match self.focus {
            Panel::Upstreams => upstreams,
            Panel::Connections => connections,
            Panel::Sources => sources,
        }
    }

    pub(super) fn key(&mut self, key: TermKey, model: &Model) -> Wish {
        match (self.mode.clone(), key) {
            (_, TermKey::Interrupt) => return Wish::Quit,
            (Mode::Filtering(before), key) => self.edit(key, before),
            (Mode::Asking { command, .. }, key) => {
                self.mode = Mode::Looking;
                if matches!(key, TermKey::Char('y' | 'Y')) {
                    return Wish::Send(command);
                }
                self.message = "nothing was done".to_owned();
            }
            (Mode::Help, _) => self.mode = Mode::Looking,
            (Mode::Looking, key) => return self.look(key, model),
        }
        Wish::Nothing
    }

    fn edit(&mut self, key: TermKey, before: String) {
        match key {
            TermKey::Char(c) => self.filter.push(c),
            TermKey::Backspace => {
                self.filter.pop();
            }
            TermKey::Enter => self.mode = Mode::Looking,
            TermKey::Escape => (self.filter, self.mode) = (before, Mode::Looking),
            _ => {}
        }
    }

    fn look(&mut self, key: TermKey, model: &Model) -> Wish {
        self.message.clear();
        match key {
            TermKey::Char('q') => return Wish::Quit,
            TermKey::Char('?' | 'h') => self.mode = Mode::Help,
            TermKey::Char('/') => self.mode = Mode::Filtering(self.filter.clone()),
            TermKey::Char('z') | TermKey::Enter => self.zoomed = !self.zoomed,
            TermKey::Escape => (self.zoomed, self.filter) = (false, String::new()),
            TermKey::Char('u') => self.focus = Panel::Upstreams,
            TermKey::Char('c') => self.focus = Panel::Connections,
            TermKey::Char('s') => self.focus = Panel::Sources,
            TermKey::Tab => self.turn(1),
            TermKey::BackTab => self.turn(2),
            TermKey::Char('o' | '>') => self.sort(1),
            TermKey::Char('O' | '<') => self.sort(-1),
            TermKey::Char('r') => {
                let sorting = &mut self.choice_mut().sorting;
                sorting.reversed = !sorting.reversed;
            }
            TermKey::Up => self.step(model, -1),
            TermKey::Down => self.step(model, 1),
            TermKey::PageUp => self.step(model, -10),
            TermKey::PageDown => self.step(model, 10),
            TermKey::Home => self.step(model, isize::MIN),
            TermKey::End => self.step(model, isize::MAX),
            TermKey::Char('d') => self.ask_upstream(model, "disable"),
            TermKey::Char('n') => self.ask_upstream(model, "drain"),
            TermKey::Char('e') => self.ask_upstream(model, "enable"),
            TermKey::Char('k') => self.ask_kill(model),
            _ => {}
        }
        Wish::Nothing
    }

    fn turn(&mut self, by: usize) {
        let at = Panel::ALL.iter().position(|panel| *panel == self.focus).unwrap_or(0);
        self.focus = Panel::ALL.into_iter().cycle().nth(at + by).unwrap_or(self.focus);
    }

    fn sort(&mut self, by: isize) {
        let columns = match self.focus {
            Panel::Upstreams => UPSTREAMS.columns.len(),
            Panel::Connections => CONNECTIONS.columns.len(),
            Panel::Sources => SOURCES.columns.len(),
        };
        let sorting = &mut self.choice_mut().sorting;
        let next = (sorting.column + columns).saturating_add_signed(by) % columns;
        *sorting = Sorting { column: next, reversed: false };
    }

    fn step(&mut self, model: &Model, by: isize) {
        let selected = match self.focus {
            Panel::Upstreams => self.stepped(&UPSTREAMS, &model.upstreams, by),
            Panel::Connections => self.stepped(&CONNECTIONS, &model.connections, by),
            Panel::Sources => self.stepped(&SOURCES, &model.sources, by),
        };
        self.choice_mut().selected = selected;
    }

    fn stepped<T>(&self, list: &ListOf<T>, lines: &[T], by: isize) -> Option<String> {
        let choice = self.choice(self.focus);
        let lines = list.arranged(lines, &self.filter, choice.sorting);
        let at = list.selected(&lines, choice.selected.as_ref());
        let at = at.saturating_add_signed(by).min(lines.len().saturating_sub(1));
        lines.get(at).map(|line| (list.key)(line))
    }

    /// The line of a list that is selected.
    pub(super) fn current<'a, T>(&self, panel: Panel, list: &ListOf<T>, lines: &'a [T]) -> Option<&'a T> {
        let choice = self.choice(panel);
        let lines = list.arranged(lines, &self.filter, choice.sorting);
        lines.get(list.selected(&lines, choice.selected.as_ref())).copied()
    }

    fn ask_upstream(&mut self, model: &Model, verb: &str) {
        if self.focus != Panel::Upstreams {
            self.message = format!("to {verb} an upstream, select it first: u");
            return;
        }
        match self.current(Panel::Upstreams, &UPSTREAMS, &model.upstreams) {
            Some(line) => {
                self.mode = Mode::Asking {
                    command: format!("upstream {verb} {}", line.name),
                    question: format!("{verb} the upstream {}?", line.name),
                }
            }
            None => self.message = "there is no upstream".to_owned(),
        }
    }

    fn ask_kill(&mut self, model: &Model) {
        let asked = match self.focus {
            Panel::Upstreams => {
                self.message = "to kill, select a connection (c) or a source (s) first".to_owned();
                return;
            }
            Panel::Connections => self.current(Panel::Connections, &CONNECTIONS, &model.connections).map(|line| {
                let question = format!("reset the connection {} of {}?", line.id, line.client);
                (format!("kill {}", line.id), question)
            }),
            Panel::Sources => self.current(Panel::Sources, &SOURCES, &model.sources).map(|line| {
                let question = format!("reset all {} connections of {}?", line.open, line.address);
                (format!("kill source {}", line.address), question)
            }),
        };
        match asked {
            Some((command, question)) => self.mode = Mode::Asking { command, question },
            None => self.message = "there is nothing to kill".to_owned(),
        }
    }
}
