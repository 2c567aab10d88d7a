//! The live view.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table as TableWidget};

use super::ORDERS;
use super::rows::{Table, head, tables, widths};
use super::snapshot::Snapshot;
use crate::tools::PingTarget;
use crate::tools::resp::RespConnection;

/// Rates that are kept for the curve.
const CURVE: usize = 300;

/// What is on the screen.
struct View {
    now: Snapshot,
    before: Option<Snapshot>,
    /// Requests a second, oldest first.
    rates: VecDeque<u64>,
    order: usize,
    paused: bool,
    error: Option<String>,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum KeyAction {
    Nothing,
    Draw,
    /// Look again at once.
    Look,
    Quit,
}

/// Shows the proxy until somebody presses q.
///
/// # Errors
/// When nobody answers at the start, or the terminal fails. Later silence is shown.
pub(super) fn run(target: &PingTarget, every: Duration, patience: Duration) -> Result<(), String> {
    let mut connection = Some(RespConnection::open(target, patience)?);
    let first = connection.as_mut().map_or_else(|| Err(String::new()), |open| Snapshot::take(open, ORDERS[0]))?;
    let mut view = View::new(first);
    let mut terminal = ratatui::try_init().map_err(|error| format!("terminal: {error}"))?;
    let mut looked = Instant::now();
    let result = loop {
        if let Err(error) = terminal.draw(|frame| view.draw(frame)) {
            break Err(format!("terminal: {error}"));
        }
        let look = match next_wish(&mut view, looked + every) {
            Ok(KeyAction::Quit) => break Ok(()),
            Ok(wish) => wish == KeyAction::Look,
            Err(error) => break Err(format!("terminal: {error}")),
        };
        if look || looked.elapsed() >= every {
            looked = Instant::now();
            if !view.paused || look {
                view.refresh(&mut connection, target, patience);
            }
        }
    };
    ratatui::restore();
    result
}

/// The wish of the next key, or nothing when `until` has come.
fn next_wish(view: &mut View, until: Instant) -> std::io::Result<KeyAction> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !event::poll(left)? {
            return Ok(KeyAction::Nothing);
        }
        let wish = match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => view.on_key(key),
            Event::Resize(..) => KeyAction::Draw,
            _ => KeyAction::Nothing,
        };
        if wish != KeyAction::Nothing {
            return Ok(wish);
        }
    }
}

impl View {
    fn new(now: Snapshot) -> Self {
        let mut view = Self { now, before: None, rates: VecDeque::new(), order: 0, paused: false, error: None };
        view.note_rate();
        view
    }

    fn on_key(&mut self, key: KeyEvent) -> KeyAction {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => KeyAction::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => KeyAction::Quit,
            KeyCode::Char('s') => {
                self.order = (self.order + 1) % ORDERS.len();
                KeyAction::Look
            }
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                KeyAction::Draw
            }
            _ => KeyAction::Nothing,
        }
    }

    /// Asks again; a connection that broke is made anew at the next look.
    fn refresh(&mut self, connection: &mut Option<RespConnection>, target: &PingTarget, patience: Duration) {
        let mut open = match connection.take().map_or_else(|| RespConnection::open(target, patience), Ok) {
            Ok(open) => open,
            Err(error) => return self.error = Some(error),
        };
        match Snapshot::take(&mut open, ORDERS[self.order]) {
            Ok(now) => {
                self.before = Some(std::mem::replace(&mut self.now, now));
                self.error = None;
                self.note_rate();
                *connection = Some(open);
            }
            Err(error) => self.error = Some(error),
        }
    }

    fn note_rate(&mut self) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rate is no negative number
        let rate = self.now.stat("requests_per_s").max(0.0) as u64;
        self.rates.push_back(rate);
        if self.rates.len() > CURVE {
            self.rates.pop_front();
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let lines = head(&self.now);
        let tables = tables(&self.now, self.before.as_ref());
        let mut heights = vec![Constraint::Length(u16::try_from(lines.len()).unwrap_or(4)), Constraint::Length(3)];
        heights.extend(tables.iter().map(|table| match table.title {
            "Pools" => Constraint::Length(u16::try_from(table.rows.len().max(1)).unwrap_or(5) + 2),
            "Clients" => Constraint::Fill(3),
            _ => Constraint::Fill(2),
        }));
        heights.push(Constraint::Length(1));
        let areas = Layout::vertical(heights).split(frame.area());
        let well = self.now.info("upstream_up") == "1";
        let texts = lines.into_iter().enumerate().map(|(row, line)| {
            let style = match row {
                0 => Style::new().add_modifier(Modifier::BOLD),
                1 if !well => Style::new().fg(Color::Red),
                _ => Style::new(),
            };
            Line::styled(line, style)
        });
        frame.render_widget(Paragraph::new(Text::from_iter(texts)), areas[0]);
        frame.render_widget(self.curve(areas[1].width), areas[1]);
        for (table, area) in tables.iter().zip(areas.iter().skip(2)) {
            frame.render_widget(widget(table), *area);
        }
        frame.render_widget(Paragraph::new(self.foot()), areas[areas.len() - 1]);
    }

    /// The newest rates, as many as there are columns.
    fn curve(&self, width: u16) -> Sparkline<'static> {
        let skip = self.rates.len().saturating_sub(usize::from(width));
        let data: Vec<u64> = self.rates.iter().skip(skip).copied().collect();
        let most = data.iter().max().copied().unwrap_or(0);
        let title = format!("Requests/s, at most {most}");
        Sparkline::default().data(data).style(Style::new().fg(Color::Cyan)).block(block(title))
    }

    fn foot(&self) -> Line<'static> {
        if let Some(error) = &self.error {
            return Line::styled(error.clone(), Style::new().fg(Color::Red));
        }
        let paused = if self.paused { "  PAUSED" } else { "" };
        let order = ORDERS[self.order].to_ascii_lowercase();
        Line::styled(format!("q quit  s sort ({order})  p pause{paused}"), Style::new().add_modifier(Modifier::DIM))
    }
}

fn block(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title).border_style(Style::new().add_modifier(Modifier::DIM))
}

fn widget(table: &Table) -> TableWidget<'static> {
    let constraints =
        widths(table).into_iter().map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
    let rows: Vec<Row<'static>> = match &table.note {
        Some(note) => vec![Row::new([note.clone()])],
        None => table.rows.iter().map(|row| Row::new(row.clone())).collect(),
    };
    let title = format!("{} ({})", table.title, table.rows.len());
    let constraints: Vec<Constraint> = match table.note {
        Some(_) => vec![Constraint::Fill(1)],
        None => constraints.collect(),
    };
    let heads = Row::new(table.heads.to_vec()).style(Style::new().add_modifier(Modifier::BOLD));
    TableWidget::new(rows, constraints).header(heads).column_spacing(2).block(block(title))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::tools::top::rows::tests::example;

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>() + "\n";
        (0..height).map(row).collect()
    }

    fn key(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    #[test]
    fn the_screen_shows_every_part() {
        let view = View::new(example("0", Instant::now()));
        let text = screen(&view, 120, 40);
        for wanted in [
            "1000 clients over 10 upstream connections",
            "Requests/s, at most 1234",
            "Pools (1)",
            "Lanes (1)",
            "Clients (1)",
            "10.0.0.1:5",
            "Slow requests (1)",
            "25.0ms",
            "q quit  s sort (traffic)  p pause",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        // Small terminals show less, and stand it.
        for (width, height) in [(20, 5), (80, 24), (1, 1)] {
            screen(&view, width, height);
        }
    }

    #[test]
    fn keys_do_what_the_foot_says() {
        let mut view = View::new(example("0", Instant::now()));
        assert_eq!(view.on_key(key(KeyCode::Char('s'), KeyModifiers::NONE)), KeyAction::Look);
        assert_eq!(view.on_key(key(KeyCode::Char('p'), KeyModifiers::NONE)), KeyAction::Draw);
        let text = screen(&view, 120, 40);
        assert!(text.contains("s sort (unsent)  p pause  PAUSED"), "{text}");
        assert_eq!(view.on_key(key(KeyCode::Char('x'), KeyModifiers::NONE)), KeyAction::Nothing);
        assert_eq!(view.on_key(key(KeyCode::Char('q'), KeyModifiers::NONE)), KeyAction::Quit);
        assert_eq!(view.on_key(key(KeyCode::Char('c'), KeyModifiers::CONTROL)), KeyAction::Quit);
        view.error = Some("closed the connection".to_owned());
        assert!(screen(&view, 120, 40).contains("closed the connection"));
    }
}
