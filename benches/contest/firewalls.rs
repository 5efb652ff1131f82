//! What redirections cost with iptables and with nft, for scripts/bench-rules:
//!
//! ```text
//! firewalls serve ADDRESS:PORT             takes connections and ends them
//! firewalls connect COUNT ADDRESS:PORT     connects so often; prints the median time that it takes, in microseconds
//! firewalls draw                           makes a picture of the rows on its standard input: the firewall, how many
//!                                          redirections, microseconds of a connect, milliseconds of a start
//! ```

mod canvas;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use canvas::Canvas;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 200.0;
const COLOURS: [(&str, &str); 2] = [("iptables", "#b3541e"), ("nft", "#1f6f43")];

/// How long one connect may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match &words[..] {
        ["serve", address] => serve(address),
        ["connect", count, address] => connect(count, address),
        ["draw"] => draw(),
        _ => Err("usage: firewalls serve ADDRESS:PORT | connect COUNT ADDRESS:PORT | draw".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("firewalls: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<(), String> {
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    listener.incoming().for_each(drop);
    Ok(())
}

fn connect(count: &str, address: &str) -> Result<(), String> {
    let count: usize = count.parse().map_err(|_| format!("{count}: expected a number"))?;
    let to: SocketAddr = address.parse().map_err(|_| format!("{address}: expected ADDRESS:PORT"))?;
    let mut times = Vec::new();
    for _ in 0..count.max(1) {
        let began = Instant::now();
        let connected = TcpStream::connect_timeout(&to, PATIENCE);
        times.push(began.elapsed());
        connected.map_err(|error| format!("{address}: {error}"))?;
    }
    times.sort_unstable();
    println!("{:.1}", times[times.len() / 2].as_secs_f64() * 1e6);
    Ok(())
}

/// What was measured with so many redirections.
struct Row {
    firewall: String,
    redirections: f64,
    connect: f64,
    start: f64,
}

impl Row {
    fn read(line: &str) -> Option<Row> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [firewall, numbers @ ..] = &words[..] else { return None };
        let numbers: Vec<f64> = numbers.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [redirections, connect, start] = numbers[..] else { return None };
        Some(Row { firewall: (*firewall).to_owned(), redirections, connect, start })
    }
}

fn draw() -> Result<(), String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
    let rows: Option<Vec<Row>> = text.lines().map(Row::read).collect();
    let rows = rows.ok_or("a row that is not of four words")?;
    let mut canvas = Canvas::default();
    canvas.text(20.0, 28.0, "class=\"head\"", "What redirections cost, with iptables and with nft");
    let title = "connect(2) to the last redirection: median, in microseconds";
    panel(&mut canvas, &rows, 20.0, title, |row| row.connect);
    let title = "A start, until the rules are in place: in milliseconds";
    panel(&mut canvas, &rows, WIDTH / 2.0 + 20.0, title, |row| row.start);
    print!("{}", canvas.picture(WIDTH, HEIGHT + 130.0));
    Ok(())
}

/// A line for each firewall over the logarithm of the number of redirections.
fn panel(canvas: &mut Canvas, rows: &[Row], at: f64, title: &str, value: impl Fn(&Row) -> f64) {
    let (left, right, bottom) = (at + 45.0, at + WIDTH / 2.0 - 110.0, 70.0 + HEIGHT);
    let most = rows.iter().map(&value).fold(1.0, f64::max) * 1.1;
    let decades = rows.iter().map(|row| row.redirections.log10()).fold(1.0, f64::max);
    let place =
        |count: f64, value: f64| (left + count.log10() / decades * (right - left), bottom - value / most * HEIGHT);
    canvas.text(at, 56.0, "class=\"title\"", title);
    canvas.line(&[(left, bottom), (right, bottom)], "#999", 1.0);
    for quarter in 1..=4 {
        let mark = most * f64::from(quarter) / 4.0;
        let (_, y) = place(1.0, mark);
        canvas.line(&[(left, y), (right, y)], "#eee", 1.0);
        canvas.text(at, y + 4.0, "class=\"small\"", &format!("{mark:.0}"));
    }
    for (name, colour) in COLOURS {
        let of_it: Vec<&Row> = rows.iter().filter(|row| row.firewall == name).collect();
        for row in &of_it {
            let (x, _) = place(row.redirections, 0.0);
            canvas.text(x, bottom + 16.0, "class=\"small\" text-anchor=\"middle\"", &row.redirections.to_string());
        }
        let points: Vec<(f64, f64)> = of_it.iter().map(|row| place(row.redirections, value(row))).collect();
        canvas.line(&points, colour, 2.0);
        points.iter().for_each(|(x, y)| canvas.bar(x - 2.5, y - 2.5, 5.0, 5.0, colour));
        if let (Some((x, y)), Some(row)) = (points.last(), of_it.last()) {
            canvas.text(x + 6.0, y + 4.0, &format!("fill=\"{colour}\""), &format!("{name} {:.0}", value(row)));
        }
    }
    canvas.text((left + right) / 2.0, bottom + 34.0, "class=\"small\" text-anchor=\"middle\"", "redirections");
}
