//! How the process-wide cap on upstream connections is divided over the workers. Pure.

use std::fmt;

/// Servers behind; a configuration names one.
pub(super) const NODES: usize = 1;

/// One subscriber for so many connections: most applications subscribe as one user.
const CONNECTIONS_PER_HUB: usize = 7;

/// The upstream connections of one worker, by kind. Each number is a limit, not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerShare {
    /// Invalidation, COMMAND, health.
    pub control: usize,
    /// AUTH and HELLO of clients, proved before they take effect.
    pub login: usize,
    /// Shared, pipelined connections.
    pub lanes: usize,
    /// Connections lent to one client at a time, and those on which blocked clients wait.
    pub pool: usize,
    /// Subscribers, one for each user with subscriptions; what exceeds them is lent from the pool. None below seven
    /// connections a worker.
    pub hubs: usize,
}

type Column = (&'static str, fn(&WorkerShare) -> usize);

impl WorkerShare {
    /// The kinds as people read them, and the sum of all.
    pub(super) const COLUMNS: [Column; 6] = [
        ("control", |share| share.control),
        ("login", |share| share.login),
        ("lanes", |share| share.lanes),
        ("pool", |share| share.pool),
        ("hubs", |share| share.hubs),
        ("total", Self::total),
    ];

    /// What a worker in front of `nodes` servers cannot do without.
    pub(super) fn minimum(nodes: usize) -> Self {
        Self {
            control: 1,
            login: 1,
            // Two, so that a second identity, database or RESP version needs no wait for the first.
            lanes: nodes.max(2),
            // Two, so that a blocking command does not keep a transaction waiting.
            pool: 2,
            hubs: 0,
        }
    }

    /// Divides `total` connections, which are at least as many as those of `minimum`.
    fn of(total: usize, minimum: Self) -> Self {
        let rest = total - minimum.control - minimum.login;
        let hubs = (total - minimum.total()).min((rest / CONNECTIONS_PER_HUB).max(1));
        let pool = ((rest - hubs) / 2).clamp(minimum.pool, rest - hubs - minimum.lanes);
        Self { lanes: rest - hubs - pool, pool, hubs, ..minimum }
    }

    /// Every connection this worker may hold at one time.
    pub fn total(&self) -> usize {
        self.control + self.login + self.lanes + self.pool + self.hubs
    }
}

/// The cap divided: one share a worker. The shares add up to the cap exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    shares: Vec<WorkerShare>,
}

impl Division {
    /// Divides `max_connections` over `workers`, each in front of `nodes` servers; what does not divide evenly goes to
    /// the first workers, one each.
    ///
    /// # Errors
    /// When a worker would get fewer than [`WorkerShare::minimum`]; the text names both settings and the values that
    /// would work.
    pub fn of(max_connections: usize, workers: usize, nodes: usize) -> Result<Self, String> {
        if workers == 0 {
            return Err("workers = 0: at least one worker is needed".to_owned());
        }
        let (each, left) = (max_connections / workers, max_connections % workers);
        let minimum = WorkerShare::minimum(nodes);
        if each < minimum.total() {
            return Err(too_few(max_connections, workers, minimum));
        }
        let shares = (0..workers).map(|i| WorkerShare::of(each + usize::from(i < left), minimum)).collect();
        Ok(Self { shares })
    }

    /// The share of worker `index`, counted from 0.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn worker(&self, index: usize) -> WorkerShare {
        self.shares[index]
    }

    /// All shares, in the order of the workers.
    pub fn shares(&self) -> &[WorkerShare] {
        &self.shares
    }

    /// The sum of all shares: the cap itself.
    pub fn total(&self) -> usize {
        self.shares.iter().map(WorkerShare::total).sum()
    }
}

fn too_few(max_connections: usize, workers: usize, minimum: WorkerShare) -> String {
    let (each, WorkerShare { control, login, lanes, pool, .. }) = (minimum.total(), minimum);
    let needed = workers.saturating_mul(each);
    let fewer = match max_connections / each {
        0 => String::new(),
        fit => format!(" or lower workers to {fit}"),
    };
    format!(
        "upstream.max_connections = {max_connections} is too small for workers = {workers}: each worker needs {each} \
         ({control} control, {login} login, {lanes} lanes, {pool} pool), {needed} in all; raise \
         upstream.max_connections to {needed}{fewer}"
    )
}

/// A table for people: kinds as columns, a row for each worker, totals below.
impl fmt::Display for Division {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |name: &str, cell: &dyn Fn(&Column) -> String| {
            let cells =
                WorkerShare::COLUMNS.iter().map(|column| format!("  {:>1$}", cell(column), column.0.len().max(5)));
            format!("  {name:>6}{}", cells.collect::<String>())
        };
        writeln!(f, "Upstream connections: at most {}, over all workers and kinds (a hard cap)", self.total())?;
        writeln!(f, "\n{}", line("worker", &|(title, _)| (*title).to_owned()))?;
        for (index, share) in self.shares.iter().enumerate() {
            writeln!(f, "{}", line(&index.to_string(), &|(_, part)| part(share).to_string()))?;
        }
        let sum = |part: fn(&WorkerShare) -> usize| self.shares.iter().map(part).sum::<usize>();
        writeln!(f, "{}", line("all", &|(_, part)| sum(*part).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_worker_works_with_six() {
        let division = Division::of(6, 1, 1).unwrap();
        let share = WorkerShare { control: 1, login: 1, lanes: 2, pool: 2, hubs: 0 };
        assert_eq!(division.shares(), [share]);
    }

    #[test]
    fn the_seventh_connection_is_a_subscriber() {
        let share = Division::of(7, 1, 1).unwrap().worker(0);
        assert_eq!((share.lanes, share.pool, share.hubs), (2, 2, 1));
    }

    #[test]
    fn what_is_left_goes_to_the_first_workers() {
        let division = Division::of(32, 3, 1).unwrap();
        let totals: Vec<usize> = division.shares().iter().map(WorkerShare::total).collect();
        assert_eq!(totals, [11, 11, 10]);
    }

    #[test]
    fn too_few_names_both_settings_and_the_remedy() {
        let reason = Division::of(20, 4, 1).unwrap_err();
        for part in [
            "upstream.max_connections = 20",
            "workers = 4",
            "raise upstream.max_connections to 24",
            "or lower workers to 3",
        ] {
            assert!(reason.contains(part), "{part:?} is not in {reason:?}");
        }
        assert!(!Division::of(5, 1, 1).unwrap_err().contains("lower workers"));
        assert!(Division::of(5, 0, 1).is_err());
    }

    #[test]
    fn the_table_has_a_row_for_each_worker_and_the_totals() {
        let table = Division::of(14, 2, 1).unwrap().to_string();
        let expected = "\
Upstream connections: at most 14, over all workers and kinds (a hard cap)

  worker  control  login  lanes   pool   hubs  total
       0        1      1      2      2      1      7
       1        1      1      2      2      1      7
     all        2      2      4      4      2     14
";
        assert_eq!(table, expected);
    }

    proptest! {
        #[test]
        fn the_shares_add_up_to_the_cap(max in 0usize..3000, workers in 1usize..200, nodes in 1usize..9) {
            let minimum = WorkerShare::minimum(nodes);
            match Division::of(max, workers, nodes) {
                Ok(division) => {
                    prop_assert_eq!(division.total(), max);
                    prop_assert_eq!(division.shares().len(), workers);
                    for share in division.shares() {
                        prop_assert_eq!((share.control, share.login), (1, 1));
                        prop_assert!(share.lanes >= minimum.lanes && share.pool >= minimum.pool);
                        prop_assert!(share.pool <= share.lanes && (share.lanes - share.pool <= 1 || share.lanes == nodes));
                        prop_assert_eq!(share.hubs > 0, share.total() > minimum.total());
                    }
                }
                Err(_) => prop_assert!(max < workers * minimum.total()),
            }
        }
    }
}
